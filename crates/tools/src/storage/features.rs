//! Features and releases: which levels a release starts with, and what a level needs.

use metadata::features::{ELR_VERSION, KRAFT_VERSION, METADATA_VERSION, METADATA_VERSIONS, MetadataVersion, SUPPORTED};

use crate::terminal::Terminal;

/// From which level of metadata.version on a release formats a feature with that level.
const DEFAULTS: &[(&str, i16, i16)] = &[
    ("transaction.version", 2, 24),
    ("group.version", 1, 22),
    (ELR_VERSION, 1, 26),
    ("share.version", 1, 28),
    ("streams.version", 1, 29),
    (KRAFT_VERSION, 1, 21),
];

/// In the order in which Kafka's tool lists them.
const LISTED: &[&str] =
    &[KRAFT_VERSION, "transaction.version", "group.version", ELR_VERSION, "share.version", "streams.version"];

/// eligible.leader.replicas.version 1 needs the records of 4.0-IV1.
const ELR_NEEDS: i16 = 23;

pub fn default_level(feature: &str, release: MetadataVersion) -> i16 {
    let known = DEFAULTS.iter().find(|(name, _, from)| *name == feature && release.0 >= *from);
    known.map_or(0, |(_, level, _)| *level)
}

/// `4.3-IV0`, or `4.3` or `4.3.1` for the last level of that release.
pub fn parse_release(text: &str) -> Result<MetadataVersion, String> {
    let exact = METADATA_VERSIONS.iter().find(|(_, name)| *name == text);
    let major_minor: String = text.split('.').take(2).collect::<Vec<_>>().join(".");
    let last = || METADATA_VERSIONS.iter().rev().find(|(_, name)| name.split('-').next() == Some(major_minor.as_str()));
    exact.or_else(last).map(|(level, _)| MetadataVersion(*level)).ok_or_else(|| {
        let names: Vec<&str> = METADATA_VERSIONS.iter().map(|(_, name)| *name).collect();
        format!("Unknown metadata.version '{text}'. Supported metadata.version are: {}", names.join(", "))
    })
}

/// `name=level` of `--feature`.
pub fn parse_feature(text: &str) -> Result<(String, i16), String> {
    let (name, level) = text
        .split_once('=')
        .ok_or_else(|| format!("Can't parse feature=level string {text}: equals sign not found."))?;
    let level = level.trim().parse().map_err(|_| {
        format!("Can't parse feature=level string {text}: unable to parse {} as a short.", level.trim())
    })?;
    Ok((name.trim().to_owned(), level))
}

/// Whether a level exists and what it needs is there.
pub fn check_level(name: &str, level: i16, release: MetadataVersion) -> Result<(), String> {
    let Some(feature) = SUPPORTED.iter().find(|feature| feature.name == name) else {
        let mut names: Vec<&str> = SUPPORTED.iter().map(|f| f.name).filter(|name| *name != METADATA_VERSION).collect();
        names.sort_unstable();
        return Err(format!("Unsupported feature: {name}. Supported features are: {}", names.join(", ")));
    };
    if !(feature.min..=feature.max).contains(&level) {
        return Err(format!("{name} has no level {level}: it goes from {} to {}", feature.min, feature.max));
    }
    if name == ELR_VERSION && level >= 1 && release.0 < ELR_NEEDS {
        return Err(format!(
            "{name} could not be set to {level} because it depends on metadata.version level {ELR_NEEDS}"
        ));
    }
    Ok(())
}

pub fn version_mapping(release: Option<&str>, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let text = release.unwrap_or(MetadataVersion::LATEST.name());
    let release = parse_release(text)?;
    terminal.line(format_args!("metadata.version={} ({text})", release.0));
    for feature in LISTED {
        terminal.line(format_args!("{feature}={}", default_level(feature, release)));
    }
    Ok(())
}

pub fn dependencies(features: &[String], terminal: &mut Terminal<'_>) -> Result<(), String> {
    for text in features {
        let (name, level) = text.split_once('=').ok_or_else(|| {
            format!("Invalid feature format: {text}. Expected format: 'feature=version' (e.g. 'group.version=1')")
        })?;
        let (name, level) = (name.trim(), level.trim());
        let level: i16 = level.parse().map_err(|_| format!("Invalid version format: {level} for feature {name}"))?;
        if name == METADATA_VERSION {
            let release = METADATA_VERSIONS.iter().find(|(known, _)| *known == level);
            let (_, release) = release.ok_or_else(|| format!("Unknown metadata.version {level}"))?;
            terminal.line(format_args!("{name}={level} ({release}) has no dependencies."));
            continue;
        }
        let known = SUPPORTED.iter().find(|feature| feature.name == name);
        let feature = known.ok_or_else(|| format!("Unknown feature: {name}"))?;
        if !(feature.min..=feature.max).contains(&level) {
            return Err(format!("Feature level {level} is not supported for feature {name}"));
        }
        if name == ELR_VERSION && level == 1 {
            terminal.line(format_args!("{name}={level} requires:"));
            terminal.line(format_args!("    metadata.version={ELR_NEEDS} ({})", MetadataVersion(ELR_NEEDS).name()));
        } else {
            terminal.line(format_args!("{name}={level} has no dependencies."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(parse_release("4.3-IV0").unwrap().0, 30);
        assert_eq!(parse_release("3.7").unwrap().0, 19);
        assert_eq!(parse_release("3.9.1").unwrap().0, 21);
        let golden = include_str!("../../tests/golden/storage-format-unknown-release.txt");
        assert!(golden.contains(&parse_release("9.9").unwrap_err()));
    }
}
