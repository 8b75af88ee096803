//! Which quota holds for a client: of all that match its user and its client id the most specific one
//! (KIP-55; `ClientQuotaManager.DefaultQuotaCallback`).

use std::collections::BTreeMap;

use metadata::image::QuotaEntity;
use metadata::quotas::{CLIENT_ID, USER};

/// Who shares what a quota allows; an empty part stands for everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    user: String,
    client: String,
}

/// A part of an entity: not named, the default (`None`), or one name.
type Part = Option<Option<String>>;

/// The values of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    by_entity: BTreeMap<(Part, Part), f64>,
}

impl Limits {
    pub fn of_key(quotas: &BTreeMap<QuotaEntity, BTreeMap<String, f64>>, key: &str) -> Self {
        let part = |entity: &QuotaEntity, kind: &str| -> Part {
            entity.iter().find(|(k, _)| k == kind).map(|(_, name)| name.clone())
        };
        let is_client = |entity: &QuotaEntity| entity.iter().all(|(kind, _)| kind == USER || kind == CLIENT_ID);
        let found = quotas.iter().filter(|(entity, _)| is_client(entity));
        let by_entity = found.filter_map(|(entity, values)| {
            let value = *values.get(key)?;
            Some(((part(entity, USER), part(entity, CLIENT_ID)), value))
        });
        Self { by_entity: by_entity.collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_entity.is_empty()
    }

    pub fn resolve(&self, user: &str, client: &str) -> Option<(f64, Scope)> {
        let named = |name: &str| Some(Some(name.to_owned()));
        let default: Part = Some(None);
        let both = Scope { user: user.to_owned(), client: client.to_owned() };
        let user_only = || Scope { client: String::new(), ..both.clone() };
        let client_only = || Scope { user: String::new(), ..both.clone() };
        let find = |user: Part, client: Part| self.by_entity.get(&(user, client)).copied();
        let found = |limit: Option<f64>, scope: Scope| limit.map(|limit| (limit, scope));
        if client.is_empty() {
            // A client without an id has its user's quotas only.
            let limit = find(named(user), None).or_else(|| find(default, None));
            return found(limit, user_only());
        }
        found(find(named(user), named(client)).or_else(|| find(named(user), default.clone())), both.clone())
            .or_else(|| found(find(named(user), None), user_only()))
            .or_else(|| found(find(default.clone(), named(client)), both.clone()))
            .or_else(|| found(find(default.clone(), default.clone()), both.clone()))
            .or_else(|| found(find(default.clone(), None), user_only()))
            .or_else(|| found(find(None, named(client)).or_else(|| find(None, default)), client_only()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u`, `c`: named; `U`, `C`: the default.
    fn limits(entities: &[(&str, f64)]) -> Limits {
        let part = |c: char| match c {
            'u' => (USER.to_owned(), Some("alice".to_owned())),
            'U' => (USER.to_owned(), None),
            'c' => (CLIENT_ID.to_owned(), Some("app".to_owned())),
            _ => (CLIENT_ID.to_owned(), None),
        };
        let quotas = entities.iter().map(|(parts, value)| {
            let mut entity: QuotaEntity = parts.chars().map(part).collect();
            entity.sort();
            (entity, [("k".to_owned(), *value)].into())
        });
        Limits::of_key(&quotas.collect(), "k")
    }

    #[test]
    fn the_most_specific_quota_holds() {
        let order = ["uc", "uC", "u", "Uc", "UC", "U", "c", "C"];
        let all: Vec<(&str, f64)> = order.iter().zip(1..).map(|(parts, i)| (*parts, f64::from(i))).collect();
        for from in 0..all.len() {
            let (limit, scope) = limits(&all[from..]).resolve("alice", "app").expect("something matches");
            assert_eq!(limit, all[from].1, "{:?}", &all[from..]);
            let parts = all[from].0.to_ascii_lowercase();
            assert_eq!(scope.user.is_empty(), !parts.contains('u'), "{parts}");
            assert_eq!(scope.client.is_empty(), !parts.contains('c'), "{parts}");
        }
        assert_eq!(limits(&all[1..2]).resolve("bob", "app"), None, "another user");
        assert_eq!(limits(&all[6..7]).resolve("alice", "other"), None, "another client");
        assert_eq!(limits(&all).resolve("alice", "").map(|found| found.0), Some(3.0), "no client id");
    }
}
