//! The text format of a .properties file, as `java.util.Properties` reads it.

/// One entry, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub key: String,
    pub value: String,
    /// Where the entry begins, counted from 1.
    pub line: u32,
}

/// Comments (`#`, `!`), continuation by a trailing backslash, escapes, and `=`, `:` or blanks between key and value.
/// A key may come back more than once; the last one wins.
pub fn parse_properties(text: &str) -> Vec<Property> {
    let mut entries = Vec::new();
    let mut lines = text.split('\n').enumerate().map(|(at, line)| (at as u32 + 1, line.trim_end_matches('\r')));
    while let Some((line, first)) = lines.next() {
        let first = trim_blanks(first);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = String::new();
        let mut rest = first;
        // An odd number of backslashes at the end joins the next line, whose leading blanks do not count.
        while ends_in_continuation(rest) {
            logical.push_str(&rest[..rest.len() - 1]);
            rest = lines.next().map_or("", |(_, next)| trim_blanks(next));
        }
        logical.push_str(rest);
        let (key, value) = split(&logical);
        entries.push(Property { key: unescape(key), value: unescape(value), line });
    }
    entries
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

fn trim_blanks(line: &str) -> &str {
    line.trim_start_matches(is_blank)
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

/// The key ends at the first separator that is not escaped; one `=` or `:` and the blanks around it are dropped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|&(_, c)| {
        let separates = !escaped && (is_blank(c) || c == '=' || c == ':');
        escaped = c == '\\' && !escaped;
        separates
    });
    let Some((end, _)) = end else { return (line, "") };
    let (key, rest) = line.split_at(end);
    let rest = trim_blanks(rest);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, trim_blanks(rest))
}

fn unescape(raw: &str) -> String {
    if !raw.contains('\\') {
        return raw.to_owned();
    }
    let mut units: Vec<u16> = Vec::with_capacity(raw.len());
    let push = |units: &mut Vec<u16>, c: char| units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut units, c);
            continue;
        }
        match chars.next() {
            Some('t') => units.push(b'\t'.into()),
            Some('n') => units.push(b'\n'.into()),
            Some('r') => units.push(b'\r'.into()),
            Some('f') => units.push(0x0c),
            // Four hex digits name one UTF-16 unit; anything shorter is kept as it stands.
            Some('u') => {
                let digits: String = chars.clone().take(4).collect();
                match u16::from_str_radix(&digits, 16) {
                    Ok(unit) if digits.chars().count() == 4 => {
                        units.push(unit);
                        chars.nth(3);
                    }
                    _ => push(&mut units, 'u'),
                }
            }
            Some(other) => push(&mut units, other),
            None => {}
        }
    }
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_java_reads_them() {
        let text = "# note\n! too\n\na=1\n b : 2\r\nc 3\nlist = x,\\\n   y,\\\n\tz\nd\ne=\nk\\=\\:\\ y=v\\\\\n\
                    u=\\u0041\\ud83d\\ude00\\q\npath=C:\\\\x=y\nlast=a\\";
        let read: Vec<_> = parse_properties(text).into_iter().map(|p| (p.key, p.value, p.line)).collect();
        let expected = [
            ("a", "1", 4),
            ("b", "2", 5),
            ("c", "3", 6),
            ("list", "x,y,z", 7),
            ("d", "", 10),
            ("e", "", 11),
            ("k=: y", "v\\", 12),
            ("u", "A\u{1f600}q", 13),
            ("path", "C:\\x=y", 14),
            ("last", "a", 15),
        ];
        let expected: Vec<_> = expected.iter().map(|(k, v, l)| (k.to_string(), v.to_string(), *l)).collect();
        assert_eq!(read, expected);
    }
}
