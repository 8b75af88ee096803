//! `--validate-regex`: whether a broker would take a subscription. Brokers read regular expressions in RE2's syntax.

use regex_lite::Regex;

use crate::terminal::Terminal;

pub fn validate(regex: &str, terminal: &mut Terminal<'_>) {
    if let Some(operators) = nested_repetition(regex) {
        let why = format!("invalid nested repetition operator: `{operators}`");
        return terminal.line(format_args!("The regular expression `{regex}` is invalid: {why}."));
    }
    match Regex::new(&in_our_syntax(regex)) {
        Ok(_) => terminal.line(format_args!("The regular expression `{regex}` is valid.")),
        Err(error) => terminal.line(format_args!("The regular expression `{regex}` is invalid: {error}.")),
    }
}

/// `a**`, which RE2 refuses and our own library takes.
fn nested_repetition(regex: &str) -> Option<&str> {
    let bytes = regex.as_bytes();
    let (mut at, mut in_class, mut repeated) = (0, false, None);
    while at < bytes.len() {
        let from = at;
        let is_repetition = match bytes[at] {
            b'\\' => {
                at += 1;
                false
            }
            b'[' | b']' => {
                in_class = bytes[at] == b'[';
                false
            }
            b'*' | b'+' | b'?' => !in_class,
            _ => false,
        };
        at += 1;
        if !is_repetition {
            repeated = None;
        } else if let Some(first) = repeated {
            return regex.get(first..at);
        } else {
            repeated = Some(from);
            // One question mark behind it means as little as possible.
            at += usize::from(bytes.get(at) == Some(&b'?'));
        }
    }
    None
}

/// What RE2 knows and our own library does not: literal text between `\Q` and `\E`, and classes of Unicode, of which
/// only the form matters here.
fn in_our_syntax(regex: &str) -> String {
    let mut out = String::new();
    let mut rest = regex;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escaped = &rest[at + 1..];
        if let Some(literal) = escaped.strip_prefix('Q') {
            let (literal, behind) = literal.split_once("\\E").unwrap_or((literal, ""));
            out.push_str(&regex_lite::escape(literal));
            rest = behind;
            continue;
        }
        let class = escaped.strip_prefix(['p', 'P']).and_then(|name| match name.strip_prefix('{') {
            Some(name) => name.split_once('}').map(|(_, behind)| behind),
            None => name.strip_prefix(|c: char| c.is_ascii_uppercase()),
        });
        if let Some(behind) = class {
            out.push('w');
            rest = behind;
            continue;
        }
        let len = escaped.chars().next().map_or(0, char::len_utf8);
        out.push('\\');
        out.push_str(&escaped[..len]);
        rest = &escaped[len..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_answers() {
        let said = |regex: &str| {
            let mut out = Vec::new();
            validate(regex, &mut Terminal { out: &mut out, err: &mut Vec::new() });
            String::from_utf8(out).unwrap()
        };
        assert_eq!(said("orders-.*"), "The regular expression `orders-.*` is valid.\n");
        for valid in [r"\p{Greek}+", r"\pL", r"\Q(a\E", r"a\.b", "(?i)x|y", "a*?b+", r"\**", "[*+]+", "(?:a?)?"] {
            assert!(said(valid).ends_with("is valid.\n"), "{valid}");
        }
        for invalid in ["(", "a**", "[", r"\", "(?=x)"] {
            assert!(said(invalid).contains("is invalid: "), "{invalid}");
        }
    }
}
