//! Where a tool writes, and how Kafka's tools write log lines on stderr.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The two output streams of a tool; tests hand in buffers. Write errors are ignored except where a tool would go on
/// for ever: a reader that has gone away must not turn a finished command into a failed one.
pub struct Terminal<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

impl Terminal<'_> {
    pub fn line(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.out, "{text}");
    }

    pub fn error(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.err, "{text}");
    }

    /// A line as the log4j configuration of Kafka's tools writes it to stderr; scripts search these for exception
    /// names.
    pub fn log(&mut self, level: &str, message: &str, class: &str) {
        let _ = writeln!(self.err, "[{}] {level} {message} ({class})", timestamp(wall_ms()));
    }

    /// An exception handed to the logger: its text ends with a newline of its own, where the stack trace was.
    pub fn log_exception(&mut self, exception: &str, class: &str) {
        self.log("ERROR", &format!("{exception}\n"), class);
    }
}

pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `2026-11-23 05:02:49,032`, in UTC.
pub fn timestamp(wall_ms: i64) -> String {
    let (days, ms) = (wall_ms.div_euclid(86_400_000), wall_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{:03}", ms % 1000)
}

/// Days since 1970 to a date of the Gregorian calendar, counted in eras of 400 years that begin on the first of March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn dates_of_known_moments() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00,000");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29 00:00:00,000");
        assert_eq!(timestamp(1_795_410_169_032), "2026-11-23 05:02:49,032");
    }
}
