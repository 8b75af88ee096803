//! An answer as lines `path = value`, without what no two clusters have in common.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::codec::Value;
use super::rules::Rules;

/// How the length of a list is shown.
pub const ELEMENTS: &str = " elements";
const DAY_MS: i128 = 86_400_000;

/// Ids in the order in which a cluster first mentioned them.
#[derive(Default)]
pub struct Seen {
    ids: BTreeMap<(String, String), usize>,
    counts: BTreeMap<String, usize>,
}

impl Seen {
    fn number(&mut self, kind: &str, id: String) -> usize {
        let count = self.counts.entry(kind.to_owned()).or_default();
        *self.ids.entry((kind.to_owned(), id)).or_insert_with(|| {
            *count += 1;
            *count
        })
    }
}

/// The lines of an answer, each under its path with indexes.
pub fn lines(api: &str, value: &Value, rules: &Rules, seen: &mut Seen) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut value = value.clone();
    sort(api, &mut value, rules);
    flatten(api, api, &value, rules, seen, &mut out);
    out
}

fn sort(path: &str, value: &mut Value, rules: &Rules) {
    match value {
        Value::List(items) => {
            if let Some(key) = rules.sort_key(path) {
                let text = |item: &Value| match item {
                    Value::Struct(fields) => {
                        fields.iter().find(|(n, _)| n == key).map(|(_, v)| sort_text(v)).unwrap_or_default()
                    }
                    other => sort_text(other),
                };
                items.sort_by_key(text);
            }
            items.iter_mut().for_each(|item| sort(path, item, rules));
        }
        Value::Struct(fields) => {
            for (name, field) in fields {
                sort(&format!("{path}.{name}"), field, rules);
            }
        }
        _ => {}
    }
}

/// Elements of a sorted list go by their key.
fn key_of(item: &Value, key: &str) -> Option<String> {
    let Value::Struct(fields) = item else { return None };
    match &fields.iter().find(|(n, _)| n == key)?.1 {
        Value::Word(text) | Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// Numbers by their value.
fn sort_text(value: &Value) -> (i64, String) {
    match value {
        Value::Word(word) => (word.parse().unwrap_or(0), word.clone()),
        other => (0, format!("{other:?}")),
    }
}

fn flatten(at: &str, plain: &str, value: &Value, rules: &Rules, seen: &mut Seen, out: &mut Vec<(String, String)>) {
    let ignored = rules.is_ignored(plain);
    let text = match value {
        Value::Struct(fields) => {
            for (name, field) in fields {
                flatten(&format!("{at}.{name}"), &format!("{plain}.{name}"), field, rules, seen, out);
            }
            return;
        }
        Value::List(items) => {
            if !ignored {
                out.push((at.to_owned(), format!("{}{ELEMENTS}", items.len())));
            }
            let key = rules.sort_key(plain);
            for (i, item) in items.iter().enumerate() {
                let index = key.and_then(|key| key_of(item, key)).unwrap_or_else(|| i.to_string());
                flatten(&format!("{at}[{index}]"), plain, item, rules, seen, out);
            }
            return;
        }
        Value::Null => "null".to_owned(),
        Value::Word(word) if word == "0" || word == "-1" => word.clone(),
        _ if ignored => "(ignored)".to_owned(),
        Value::Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => "no id".to_owned(),
        Value::Uuid(id) if *id < [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0] => {
            format!("id {}", u128::from_be_bytes(*id))
        }
        Value::Uuid(id) => format!("id #{}", seen.number("id", format!("{id:?}"))),
        Value::Word(id) | Value::Text(id) if !id.is_empty() && rules.numbered(plain).is_some() => {
            format!("#{}", seen.number(rules.numbered(plain).unwrap_or_default(), id.clone()))
        }
        Value::Word(word) if is_now(word) => "(now)".to_owned(),
        Value::Word(word) => word.clone(),
        Value::Text(text) => format!("{text:?}"),
    };
    out.push((at.to_owned(), text));
}

/// A time of today, in milliseconds.
fn is_now(word: &str) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i128);
    word.parse::<i128>().is_ok_and(|time| (time - now).abs() < DAY_MS)
}
