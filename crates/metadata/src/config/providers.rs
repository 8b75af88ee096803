//! Values that stand elsewhere: `${env:NAME}`, `${file:path:key}` and `${dir:path:file}` in a properties file, by the
//! providers that `config.providers` names (KIP-297, KIP-421, KIP-632).

use std::collections::BTreeMap;
use std::io;

use super::properties::parse_properties;
use super::validate::list;

/// The world outside of the file; whoever reads files hands it in.
pub struct Outside<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub file: &'a dyn Fn(&str) -> io::Result<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    Env,
    File,
    Directory,
}

const CLASSES: &[(&str, Provider)] = &[
    ("org.apache.kafka.common.config.provider.EnvVarConfigProvider", Provider::Env),
    ("org.apache.kafka.common.config.provider.FileConfigProvider", Provider::File),
    ("org.apache.kafka.common.config.provider.DirectoryConfigProvider", Provider::Directory),
];

/// A provider under the name that the file gives it.
struct Named {
    provider: Provider,
    /// `allowed.paths`: files may only be read below these; all, if there are none.
    allowed: Vec<String>,
}

/// The values that differ from what the file says, or what is wrong with which key.
pub(super) fn resolve(
    entries: &BTreeMap<&str, &str>,
    outside: Option<&Outside<'_>>,
) -> Result<BTreeMap<String, String>, (String, String)> {
    let names = list(entries.get("config.providers").copied().unwrap_or_default());
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let Some(outside) = outside else {
        let what = "configuration providers cannot be asked here; write the values into the file";
        return Err(("config.providers".to_owned(), what.to_owned()));
    };
    let mut providers = BTreeMap::new();
    for name in names {
        providers.insert(name, named(name, entries)?);
    }
    let mut out = BTreeMap::new();
    let mut files = BTreeMap::new();
    for (key, value) in
        entries.iter().filter(|(key, value)| !key.starts_with("config.providers") && value.contains("${"))
    {
        let resolved = substitute(value, &providers, outside, &mut files);
        let resolved = resolved.map_err(|message| ((*key).to_owned(), message))?;
        if resolved != **value {
            out.insert((*key).to_owned(), resolved);
        }
    }
    Ok(out)
}

fn named(name: &str, entries: &BTreeMap<&str, &str>) -> Result<Named, (String, String)> {
    let key = format!("config.providers.{name}.class");
    let Some(class) = entries.get(key.as_str()).map(|class| class.trim()) else {
        return Err((key, format!("is missing; config.providers names {name}")));
    };
    let Some((_, provider)) = CLASSES.iter().find(|(known, _)| *known == class) else {
        let known: Vec<&str> = CLASSES.iter().map(|(known, _)| *known).collect();
        return Err((key, format!("Java plugins cannot be loaded; built in are {}", known.join(", "))));
    };
    let allowed = entries.get(format!("config.providers.{name}.param.allowed.paths").as_str());
    let allowed = list(allowed.copied().unwrap_or_default()).into_iter().map(str::to_owned).collect();
    Ok(Named { provider: *provider, allowed })
}

/// Once, from left to right: what a provider returns is not looked at again.
fn substitute(
    value: &str,
    providers: &BTreeMap<&str, Named>,
    outside: &Outside<'_>,
    files: &mut BTreeMap<String, BTreeMap<String, String>>,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = from.find('}') else { break };
        let inside = &from[2..end];
        let parts: Vec<&str> = inside.splitn(3, ':').collect();
        let found = match (parts.as_slice(), parts.first().and_then(|name| providers.get(name))) {
            ([_, key], Some(named)) => Some(look_up(named, "", key, outside, files)?),
            ([_, path, key], Some(named)) => Some(look_up(named, path, key, outside, files)?),
            // Not for us: other programs write such things too.
            _ => None,
        };
        match found {
            Some(found) => out.push_str(&found),
            None => out.push_str(&from[..=end]),
        }
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

// DIFFERS: a reference to a variable, file or key that does not exist stops the start; Kafka takes it as plain text.
fn look_up(
    named: &Named,
    path: &str,
    key: &str,
    outside: &Outside<'_>,
    files: &mut BTreeMap<String, BTreeMap<String, String>>,
) -> Result<String, String> {
    let is_below = |root: &String| {
        path == root || path.strip_prefix(root.trim_end_matches('/')).is_some_and(|p| p.starts_with('/'))
    };
    let is_allowed = named.allowed.is_empty() || named.allowed.iter().any(is_below);
    let has_steps_back = path.split('/').any(|part| part == "..") || key.contains('/');
    match named.provider {
        Provider::Env => (outside.env)(key).ok_or_else(|| format!("the environment has no variable {key}; set it")),
        _ if path.is_empty() => Err(format!("${{…:{key}}} names no path; write ${{provider:path:key}}")),
        _ if !named.allowed.is_empty() && (!is_allowed || has_steps_back) => {
            Err(format!("{path} is not below the provider's allowed.paths"))
        }
        Provider::Directory if key.contains('/') || key == ".." => Err(format!("{key} is no name of a file in {path}")),
        Provider::Directory => {
            let file = format!("{}/{key}", path.trim_end_matches('/'));
            (outside.file)(&file).map_err(|error| format!("{file} cannot be read: {error}"))
        }
        Provider::File => {
            if !files.contains_key(path) {
                let text = (outside.file)(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
                let entries = parse_properties(&text).into_iter().map(|p| (p.key, p.value));
                files.insert(path.to_owned(), entries.collect());
            }
            let found = files.get(path).and_then(|entries| entries.get(key)).cloned();
            found.ok_or_else(|| format!("{path} has no entry {key}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<BTreeMap<String, String>, (String, String)> {
        let parsed = parse_properties(text);
        let entries = parsed.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        let env = |name: &str| (name == "RACK").then(|| "r1".to_owned());
        let file = |path: &str| match path {
            "/etc/a.properties" => Ok("x=1\ny=${env:RACK}\n".to_owned()),
            "/run/secrets/pw" => Ok("secret".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        resolve(&entries, Some(&Outside { env: &env, file: &file }))
    }

    const CLASS: &str = "org.apache.kafka.common.config.provider";

    fn head() -> String {
        format!(
            "config.providers=env, file,dir\nconfig.providers.env.class={CLASS}.EnvVarConfigProvider\n\
             config.providers.file.class={CLASS}.FileConfigProvider\n\
             config.providers.dir.class={CLASS}.DirectoryConfigProvider\n"
        )
    }

    #[test]
    fn references_are_replaced_once() {
        let text = head()
            + "broker.rack=${env:RACK}-b\na=${file:/etc/a.properties:y}${other:z}\nb=${dir:/run/secrets:pw}\nc=$\n";
        let found = run(&text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("a", "${env:RACK}${other:z}"), ("b", "secret"), ("broker.rack", "r1-b")]);
        assert_eq!(run("a=${env:RACK}\n").unwrap().len(), 0);
    }

    #[test]
    fn mistakes_name_their_key() {
        let of = |line: &str| run(&(head() + line)).unwrap_err();
        assert_eq!(of("broker.rack=${env:NONE}\n").0, "broker.rack");
        assert!(of("a=${file:/nope:x}\n").1.contains("/nope cannot be read"));
        assert!(of("a=${file:/etc/a.properties:z}\n").1.contains("has no entry z"));
        assert!(of("a=${dir:/run/secrets:../x}\n").1.contains("no name of a file"));
        let limited = "config.providers.dir.param.allowed.paths=/run/other\na=${dir:/run/secrets:pw}\n";
        assert!(of(limited).1.contains("allowed.paths"));
        assert_eq!(run("config.providers=x\n").unwrap_err().0, "config.providers.x.class");
        assert!(run("config.providers=x\nconfig.providers.x.class=a.B\n").unwrap_err().1.contains("plugins"));
    }
}
