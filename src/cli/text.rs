//! Text for people: dates, tables, log lines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::format::suite::Envelope;
use crate::format::wrap::WrapAlgorithm;

/// A UTC date and time, as `2026-11-24 19:20:11 UTC`, from seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date of a day count, by 400-year eras that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Rows with columns of equal width; the last column is not padded.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// An envelope, as users name it.
pub(super) fn envelope(envelope: Envelope) -> &'static str {
    match envelope {
        Envelope::Direct => "direct",
        Envelope::Volume => "volume",
    }
}

/// An algorithm, as the volume file names it.
pub(super) fn algorithm(algorithm: WrapAlgorithm) -> &'static str {
    match algorithm {
        WrapAlgorithm::AesGcmSiv => "aes-256-gcm-siv",
        WrapAlgorithm::AesGcm => "aes-256-gcm",
        WrapAlgorithm::RsaOaepSha256 => "rsa-oaep-sha256",
        WrapAlgorithm::RsaOaepSha1 => "rsa-oaep-sha1",
        WrapAlgorithm::AesCbcHmac => "aes-256-cbc-hmac-sha256",
    }
}

/// Log lines go to stderr; `STRONGROOM_LOG` chooses (warnings and worse unless told).
pub(super) fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_env("STRONGROOM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(seconds), shown);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [
            ["a".to_owned(), "b".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(&rows), "a     b\nlong\n");
    }
}
