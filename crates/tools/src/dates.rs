//! Moments and durations as Kafka's tools read them: ISO 8601, in the form that Java's classes take.

use crate::terminal::timestamp;

/// `2026-11-23T05:02:49.032`, in UTC unless it ends with `Z`, `+01`, `+0100` or `+01:00`.
pub fn parse_moment(text: &str) -> Result<i64, String> {
    let bad = || format!("Unparseable date: \"{text}\"");
    let (date, time) = text
        .split_once('T')
        .filter(|(_, time)| !time.is_empty())
        .ok_or("Error parsing timestamp. It does not contain a 'T' according to ISO8601 format")?;
    let (time, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], zone_ms(&time[at..]).ok_or_else(bad)?),
        None => (time, 0),
    };
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse().ok().filter(|n| *n >= 0)).collect()
    };
    let (clock, millis) = time.split_once('.').ok_or_else(bad)?;
    let millis: i64 = millis.parse().ok().filter(|ms| (0..1000).contains(ms)).ok_or_else(bad)?;
    let (date, clock) = (numbers(date, '-').ok_or_else(bad)?, numbers(clock, ':').ok_or_else(bad)?);
    let (&[year, month, day], &[hour, minute, second]) = (&date[..], &clock[..]) else { return Err(bad()) };
    let valid = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return Err(bad());
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Ok(seconds * 1000 + millis - offset)
}

fn zone_ms(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text[1..].replacen(':', "", 1);
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let (hours, minutes) = match digits.len() {
        2 => (number(0..2)?, 0),
        4 => (number(0..2)?, number(2..4)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// A moment in UTC as `SimpleDateFormat` writes it: years, months, days and the clock; quoted text and other signs stay.
pub fn format_moment(ms: i64, format: &str) -> String {
    let stamp = timestamp(ms); // 2026-11-23 05:02:49,032
    let digits = |from: usize, len: usize| stamp.get(from..from + len).unwrap_or_default();
    let mut out = String::new();
    let chars: Vec<char> = format.chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let run = chars[at..].iter().take_while(|other| **other == c).count();
        let value = match c {
            'y' => digits(0, 4),
            'M' => digits(5, 2),
            'd' => digits(8, 2),
            'H' => digits(11, 2),
            'm' => digits(14, 2),
            's' => digits(17, 2),
            'S' => digits(20, 3),
            '\'' => {
                let end = chars[at + 1..].iter().position(|other| *other == '\'').unwrap_or(chars.len() - at - 1);
                out.extend(&chars[at + 1..at + 1 + end]);
                at += end + 2;
                continue;
            }
            _ => {
                out.extend(std::iter::repeat_n(c, run));
                at += run;
                continue;
            }
        };
        match c {
            'y' if run == 2 => out.push_str(digits(2, 2)),
            _ => out.push_str(&format!("{:0>run$}", value.trim_start_matches('0'))),
        }
        at += run;
    }
    out
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970, counted in eras of 400 years that begin on the first of March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `P1DT2H3M4.5S`, parts may be left out or negative, as `java.time.Duration` reads it.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let upper = text.to_ascii_uppercase();
    let (sign, rest) = match upper.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, upper.strip_prefix('+').unwrap_or(&upper)),
    };
    let rest = rest.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i64;
    if !days.is_empty() {
        total = total.checked_add(days.strip_suffix('D')?.parse::<i64>().ok()?.checked_mul(86_400_000)?)?;
    }
    let mut left = time;
    for (unit, ms) in [('H', 3_600_000i64), ('M', 60_000)] {
        if let Some((number, rest)) = left.split_once(unit) {
            total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(ms)?)?;
            left = rest;
        }
    }
    if !left.is_empty() {
        total = total.checked_add(seconds_ms(left.strip_suffix('S')?)?)?;
    }
    total.checked_mul(sign)
}

fn seconds_ms(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = if matches!(whole, "" | "-" | "+") { 0 } else { whole.parse().ok()? };
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    seconds.checked_mul(1000)?.checked_add(if negative { -millis } else { millis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(parse_moment("1970-01-01T00:00:00.000"), Ok(0));
        assert_eq!(parse_moment("2026-11-23T05:02:49.032Z"), Ok(1_795_410_169_032));
        assert_eq!(parse_moment("2000-02-29T01:00:00.000+01:00"), Ok(951_782_400_000));
        assert_eq!(parse_moment("2000-02-29T00:00:00.000-0130"), Ok(951_782_400_000 + 5_400_000));
        for wrong in ["2026-11-23", "2026-02-29T00:00:00.000", "2026-11-23T05:02:49", "2026-11-23T25:00:00.000", "x"] {
            assert!(parse_moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_written_as_asked() {
        let shown = |format: &str| format_moment(1_795_410_169_032, format);
        assert_eq!(shown("yyyy-MM-dd HH:mm:ss:SSS"), "2026-11-23 05:02:49:032");
        assert_eq!(shown("d.M.yy 'at' H:mm"), "23.11.26 at 5:02");
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("PT0S", 0),
            ("P1D", 86_400_000),
            ("P1DT2H3M4.5S", 93_784_500),
            ("PT1M", 60_000),
            ("-PT1S", -1000),
            ("PT-1.25S", -1250),
            ("pt1h", 3_600_000),
        ] {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
        }
        for wrong in ["", "P", "PT", "1D", "P1H", "PT1D", "PT1S1M", "PTxS"] {
            assert_eq!(parse_duration_ms(wrong), None, "{wrong}");
        }
    }
}
