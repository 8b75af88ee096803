//! How the stored messages are built, as tables: records of the metadata log and of the coordinators' topics, control
//! records, files. For tools, which show messages without knowing them; no server code comes here.

use crate::messages::layouts::LAYOUTS;

/// First and last version, both included.
type Versions = (i16, i16);

#[derive(Debug)]
pub struct Layout {
    pub name: &'static str,
    /// The file of the schema that it is in: each coordinator numbers its records for itself.
    pub table: &'static str,
    /// As in the schema: data, metadata, coordinator-key, coordinator-value.
    pub kind: &'static str,
    /// What stands in front of a stored record to tell its type; −1 where nothing does.
    pub key: i16,
    pub versions: Versions,
    pub flexible_from: i16,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    /// As Kafka's JSON has it.
    pub name: &'static str,
    pub kind: Kind,
    pub is_array: bool,
    versions: Versions,
    nullable: Versions,
    /// The field's number in the tag section; where it has one it stands nowhere else.
    pub tag: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    UInt16,
    Int32,
    UInt32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Struct(&'static [Field]),
}

pub(crate) const fn field(name: &'static str, versions: Versions, kind: Kind) -> Field {
    Field { name, kind, is_array: false, versions, nullable: (0, -1), tag: None }
}

impl Field {
    pub(crate) const fn array(mut self) -> Field {
        self.is_array = true;
        self
    }

    pub(crate) const fn nullable(mut self, first: i16, last: i16) -> Field {
        self.nullable = (first, last);
        self
    }

    pub(crate) const fn tag(mut self, tag: u32) -> Field {
        self.tag = Some(tag);
        self
    }

    pub fn is_in(&self, version: i16) -> bool {
        contains(self.versions, version)
    }

    pub fn is_nullable(&self, version: i16) -> bool {
        contains(self.nullable, version)
    }
}

fn contains((first, last): Versions, version: i16) -> bool {
    (first..=last).contains(&version)
}

impl Layout {
    pub fn has_version(&self, version: i16) -> bool {
        contains(self.versions, version)
    }
}

pub fn all() -> &'static [Layout] {
    LAYOUTS
}

/// The layout of a stored record, by the number that stands in front of it.
pub fn of_record(table: &str, kind: &str, key: i16) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.key == key && layout.kind == kind && layout.table == table)
}

pub fn find(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.name == name)
}
