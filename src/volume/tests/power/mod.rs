//! Power cuts, kills and failed syncs on whole volumes with the real code: keystore, volume and pins on one recorded disk.
//! After each, everything is opened again and compared with what the operations so far may have left.

mod anew;
mod copied;
mod failing;
mod full;
mod keystore;
mod machine;
mod oracle;
mod random;
mod scripts;
mod session;
mod step;
mod teeth;

use machine::Setup;
use step::Step;
