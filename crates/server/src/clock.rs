//! The clocks of the system, and dates for people.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::time::Now;

/// One reading of both clocks.
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    // The monotonic clock begins above 0, so that "0 ms ago" is never before its zero.
    let mono_ms = 1 + START.get_or_init(Instant::now).elapsed().as_millis() as i64;
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Now { mono_ms, wall_ms }
}

/// `2026-01-31 12:00:00,123`, as Kafka's logs have it, in UTC.
pub fn timestamp(wall_ms: i64) -> String {
    let (seconds, millis) = (wall_ms.div_euclid(1000), wall_ms.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{millis:03}")
}

/// Year, month and day of a day since 1970-01-01 (Hinnant's days-to-civil: years begin in March, eras have 400).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00,000");
        assert_eq!(timestamp(1_709_164_799_123), "2024-02-28 23:59:59,123");
        assert_eq!(timestamp(1_709_251_199_999), "2024-02-29 23:59:59,999");
        assert_eq!(timestamp(4_102_444_800_000), "2100-01-01 00:00:00,000");
    }
}
