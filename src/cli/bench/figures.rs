//! What was measured several times: the median, and how far the single figures lie apart.

use std::fmt;

/// At least one figure.
#[derive(Debug, Clone)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// The first.
    pub fn of(first: f64) -> Self {
        Self(vec![first])
    }

    /// One more.
    pub fn add(&mut self, figure: f64) {
        let place = self.0.partition_point(|other| *other < figure);
        self.0.insert(place, figure);
    }

    /// The one in the middle; between two, their mean.
    pub fn median(&self) -> f64 {
        let (low, high) = ((self.0.len() - 1) / 2, self.0.len() / 2);
        let at = |place: usize| self.0.get(place).copied().unwrap_or(f64::NAN);
        f64::midpoint(at(low), at(high))
    }

    /// The smallest.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest.
    pub fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&number(self.median()))?;
        if self.0.len() > 1 {
            write!(f, " ({}–{})", number(self.least()), number(self.most()))?;
        }
        Ok(())
    }
}

/// Three digits.
pub fn number(value: f64) -> String {
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_came_first() {
        let mut figures = Figures::of(30.0);
        assert_eq!(
            (figures.median(), figures.to_string()),
            (30.0, "30.0".to_owned())
        );
        figures.add(10.0);
        assert_eq!(figures.median(), 20.0);
        figures.add(1000.0);
        assert_eq!(
            (figures.least(), figures.median(), figures.most()),
            (10.0, 30.0, 1000.0)
        );
        assert_eq!(figures.to_string(), "30.0 (10.0–1000)");
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, shown) in [
            (1234.4, "1234"),
            (99.97, "100"),
            (9.996, "10.0"),
            (0.9961, "1.00"),
            (0.0312, "0.031"),
        ] {
            assert_eq!(number(value), shown);
        }
    }
}
