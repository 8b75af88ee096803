//! Subscriptions by regular expression, in the syntax of RE2 (which Kafka's brokers use): read into the engine's syntax,
//! with what RE2 refuses refused here. Topic names are ASCII, which keeps classes small.

use std::collections::BTreeSet;

use regex_lite::{Regex, RegexBuilder};

use crate::facts::Facts;

/// RE2 refuses larger counts, since each repetition costs memory.
const REPEAT_MAX: u32 = 1_000;
const COMPILED_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Why it is none, in words.
    pub fn compile(text: &str) -> Result<Self, String> {
        let translated = Translator { rest: text.chars().collect(), at: 0, out: String::new() }.run()?;
        // By itself first: an unbalanced parenthesis must not find its partner in what is put around it.
        let compile = |text: &str| RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
        compile(&translated).map_err(|error| error.to_string())?;
        compile(&format!(r"\A(?:{translated})\z")).map(Pattern).map_err(|error| error.to_string())
    }

    pub fn topics(&self, facts: &dyn Facts) -> BTreeSet<String> {
        facts.topic_names().filter(|name| self.0.is_match(name)).map(str::to_owned).collect()
    }
}

struct Translator {
    rest: Vec<char>,
    at: usize,
    out: String,
}

impl Translator {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn run(mut self) -> Result<String, String> {
        // Whether what came last is a repetition: RE2 refuses two in a row.
        let mut repeated = false;
        while let Some(c) = self.next() {
            let is_repetition = matches!(c, '*' | '+' | '?') || (c == '{' && self.counts().is_some());
            if is_repetition && repeated {
                return Err(format!("bad repetition operator: {c}"));
            }
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '{' if is_repetition => {
                    let (text, least, most) = self.counts().ok_or("bad repetition")?;
                    if least > REPEAT_MAX || most.is_some_and(|most| most > REPEAT_MAX || most < least) {
                        return Err(format!("bad repetition: {{{text}}}"));
                    }
                    self.at += text.chars().count() + 1;
                    self.out.push_str(&format!("{{{text}}}"));
                }
                '{' | '}' | ']' => self.out.extend(['\\', c]),
                _ => self.out.push(c),
            }
            if is_repetition && self.peek() == Some('?') {
                self.at += 1;
                self.out.push('?');
            }
            // The question mark of a group, `(?:`, repeats nothing.
            if c == '(' && self.peek() == Some('?') {
                self.at += 1;
                self.out.push('?');
            }
            repeated = is_repetition;
        }
        Ok(self.out)
    }

    /// `{n}`, `{n,}` or `{n,m}` after the brace; anything else is a brace that stands for itself.
    fn counts(&self) -> Option<(String, u32, Option<u32>)> {
        let text: String = self.rest.get(self.at..)?.iter().take_while(|c| **c != '}').collect();
        let closed = self.rest.get(self.at + text.chars().count()) == Some(&'}');
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let (least, most) = match text.split_once(',') {
            None => (number(&text)?, Some(number(&text)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        closed.then_some((text, least, most))
    }

    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let c = self.next().ok_or("trailing backslash at end of expression")?;
        match c {
            'Q' if !in_class => {
                while let Some(c) = self.next() {
                    if c == '\\' && self.peek() == Some('E') {
                        self.at += 1;
                        break;
                    }
                    if c.is_ascii_punctuation() {
                        self.out.push('\\');
                    }
                    self.out.push(c);
                }
            }
            'p' | 'P' => {
                let class = self.property()?;
                let negated = (c == 'P') != class.starts_with('^');
                let class = class.trim_start_matches('^');
                match (in_class, negated) {
                    (false, negated) => self.out.push_str(&format!("[{}{class}]", if negated { "^" } else { "" })),
                    (true, false) => self.out.push_str(class),
                    (true, true) => return Err("a negated class within a class".to_owned()),
                }
            }
            'C' => return Err("invalid escape sequence: \\C".to_owned()),
            '1'..='9' => return Err(format!("invalid escape sequence: \\{c}")),
            c => self.out.extend(['\\', c]),
        }
        Ok(())
    }

    /// A Unicode class, as far as it has ASCII characters.
    fn property(&mut self) -> Result<&'static str, String> {
        let name: String = match self.next() {
            Some('{') => {
                let from = self.rest.get(self.at..).unwrap_or_default();
                let name: String = from.iter().take_while(|c| **c != '}').collect();
                self.at += name.chars().count() + 1;
                name
            }
            Some(c) => c.to_string(),
            None => return Err("invalid character class range".to_owned()),
        };
        let (negated, name) = match name.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, name.as_str()),
        };
        let class = match (name, negated) {
            ("L" | "Latin", false) => "A-Za-z",
            ("Lu", false) => "A-Z",
            ("Ll", false) => "a-z",
            ("N" | "Nd", false) => "0-9",
            ("P", false) => "._-",
            ("Pc", false) => "_",
            ("Pd", false) => r"\-",
            ("Po", false) => ".",
            ("L" | "Latin", true) => "^A-Za-z",
            ("N" | "Nd", true) => "^0-9",
            ("Any", false) => r"\x00-\x7f",
            // Classes without any character of a topic's name.
            ("Greek" | "Cyrillic" | "Han" | "Lt" | "Lm" | "Lo" | "M" | "Mn" | "Nl" | "No" | "S" | "Z", false) => {
                r"\x00"
            }
            _ => return Err(format!("invalid character class range: {name}")),
        };
        Ok(class)
    }

    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            match self.next().ok_or("missing closing ]")? {
                ']' if !is_first => break,
                ']' => self.out.push_str(r"\]"),
                '[' if self.peek() == Some(':') => {
                    let name: String =
                        self.rest.get(self.at..).unwrap_or_default().iter().take_while(|c| **c != ']').collect();
                    self.at += name.chars().count() + 1;
                    self.out.push_str(&format!("[{name}]"));
                }
                '\\' => self.escape(true)?,
                c @ ('[' | '&' | '~') => self.out.extend(['\\', c]),
                c => self.out.push(c),
            }
            is_first = false;
        }
        self.out.push(']');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn matches(pattern: &str, name: &str) -> Option<bool> {
        Pattern::compile(pattern).ok().map(|pattern| pattern.0.is_match(name))
    }

    #[test]
    fn the_whole_name_is_matched_as_re2_does() {
        for (pattern, name, expected) in [
            ("orders-.*", "orders-eu", Some(true)),
            ("orders", "orders-eu", Some(false)),
            ("a|orders-eu", "orders-eu", Some(true)),
            (r"\Qa.b\E.", "a.bc", Some(true)),
            (r"\Qa.b\E", "axb", Some(false)),
            (r"\p{Lu}\pN+", "T12", Some(true)),
            (r"\P{N}+", "t1", Some(false)),
            ("a{2}", "aa", Some(true)),
            ("(?i)ABC", "abc", Some(true)),
            ("(?P<n>x)+?", "xx", Some(true)),
            ("[[:alpha:]_&]+", "a_b", Some(true)),
            ("[]a]", "a", Some(true)),
            ("x{,2}", "x", Some(false)),
            ("a**", "a", None),
            ("a{1001}", "a", None),
            ("a{3,2}", "a", None),
            (")(", "a", None),
            ("(?=a)", "a", None),
            (r"(a)\1", "aa", None),
            ("[a", "a", None),
            (r"\p{Nope}", "a", None),
            ("a\\", "a", None),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
