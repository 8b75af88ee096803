//! The metrics that clients push, as OpenTelemetry's protocol writes them: just enough of its messages to know names,
//! labels and numbers. The bytes come from anybody: whatever does not fit is an error, and nothing is allocated by their
//! word.

/// One number of one metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub name: String,
    /// Sorted by key.
    pub labels: Vec<(String, String)>,
    pub value: f64,
    /// What was added since the last push, not a total.
    pub is_delta: bool,
}

/// Points of one push; more are not read.
const POINTS_MAX: usize = 2_000;
const LABELS_MAX: usize = 16;
const DELTA: u64 = 1;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A field of a message: its number and what it holds.
enum Field<'a> {
    Number(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or(Malformed)?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// The next field; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Field<'a>)>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Field::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Field::Fixed32
            }
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, field)))
    }

    /// Calls for every nested message or text with this number.
    fn each(
        bytes: &'a [u8],
        number: u64,
        mut take: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut message = Message { bytes };
        while let Some((found, field)) = message.field()? {
            if let (true, Field::Bytes(inner)) = (found == number, field) {
                take(inner)?;
            }
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// `MetricsData`: resources, their scopes, their metrics.
pub(crate) fn points(bytes: &[u8]) -> Result<Vec<Point>, Malformed> {
    let mut points = Vec::new();
    Message::each(bytes, 1, |resource| {
        Message::each(resource, 2, |scope| Message::each(scope, 2, |metric| metric_points(metric, &mut points)))
    })?;
    Ok(points)
}

/// Gauges and sums; the client sends nothing else.
fn metric_points(bytes: &[u8], points: &mut Vec<Point>) -> Result<(), Malformed> {
    let mut name = String::new();
    Message::each(bytes, 1, |bytes| text(bytes).map(|text| name = text))?;
    Message::each(bytes, 5, |gauge| Message::each(gauge, 1, |data| point(&name, data, false, points)))?;
    Message::each(bytes, 7, |sum| {
        let mut is_delta = false;
        let mut message = Message { bytes: sum };
        while let Some((number, field)) = message.field()? {
            if let (2, Field::Number(temporality)) = (number, field) {
                is_delta = temporality == DELTA;
            }
        }
        Message::each(sum, 1, |data| point(&name, data, is_delta, points))
    })
}

fn point(name: &str, bytes: &[u8], is_delta: bool, points: &mut Vec<Point>) -> Result<(), Malformed> {
    if points.len() >= POINTS_MAX {
        return Ok(());
    }
    let mut point = Point { name: name.to_owned(), labels: Vec::new(), value: 0.0, is_delta };
    let mut message = Message { bytes };
    while let Some((number, field)) = message.field()? {
        match (number, field) {
            (4, Field::Fixed64(bits)) => point.value = f64::from_bits(bits),
            (6, Field::Fixed64(bits)) => point.value = bits as i64 as f64,
            (7, Field::Bytes(attribute)) if point.labels.len() < LABELS_MAX => point.labels.push(label(attribute)?),
            _ => {}
        }
    }
    point.labels.sort();
    points.push(point);
    Ok(())
}

fn label(bytes: &[u8]) -> Result<(String, String), Malformed> {
    let (mut key, mut value) = (String::new(), String::new());
    Message::each(bytes, 1, |bytes| text(bytes).map(|text| key = text))?;
    Message::each(bytes, 2, |any| {
        let mut message = Message { bytes: any };
        while let Some((number, field)) = message.field()? {
            value = match (number, field) {
                (1, Field::Bytes(bytes)) => text(bytes)?,
                (2, Field::Number(flag)) => (flag != 0).to_string(),
                (3, Field::Number(number)) => (number as i64).to_string(),
                (4, Field::Fixed64(bits)) => f64::from_bits(bits).to_string(),
                _ => continue,
            };
        }
        Ok(())
    })?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(number: u8, inner: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, inner.len() as u8], inner].concat()
    }

    fn sample() -> Vec<u8> {
        let attribute = [nested(1, b"client"), nested(2, &nested(1, b"a"))].concat();
        let double = [&[4 << 3 | 1][..], &1.5f64.to_le_bytes(), &nested(7, &attribute)].concat();
        let whole = [&[6 << 3 | 1][..], &7i64.to_le_bytes()].concat();
        let gauge = [nested(1, b"g"), nested(5, &nested(1, &double))].concat();
        let sum = [nested(1, b"s"), nested(7, &[nested(1, &whole), vec![2 << 3, 1]].concat())].concat();
        let scope = [nested(2, &gauge), nested(2, &sum)].concat();
        nested(1, &nested(2, &scope))
    }

    #[test]
    fn gauges_and_sums() {
        let points = points(&sample()).expect("well formed");
        let labels = vec![("client".to_owned(), "a".to_owned())];
        assert_eq!(points[0], Point { name: "g".to_owned(), labels, value: 1.5, is_delta: false });
        assert_eq!(points[1], Point { name: "s".to_owned(), labels: vec![], value: 7.0, is_delta: true });
        assert_eq!(points.len(), 2);
    }

    #[test]
    fn whatever_is_cut_off_or_bent_does_not_stop_the_node() {
        let good = sample();
        for end in 0..good.len() {
            let _ = points(&good[..end]);
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bent = good.clone();
                bent[at] = value;
                let _ = points(&bent);
            }
        }
        assert_eq!(points(&[0xff; 12]), Err(Malformed));
    }
}
