//! The JSON schemas of `docs/`.

use super::repo;
use serde_json::Value;
use std::fs;

/// The schema, compiled.
pub struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    pub fn load() -> Self {
        Schema::of("report.schema.json")
    }

    /// One of those in `docs/`.
    pub fn of(path: &str) -> Self {
        let text = fs::read_to_string(repo("docs").join(path)).unwrap();
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        let schema = serde_json::from_str(&text).unwrap();
        compiler.add_resource(path, schema).unwrap();
        let index = compiler
            .compile(path, &mut schemas)
            .unwrap_or_else(|error| panic!("docs/{path}: {error:#}"));
        Schema { schemas, index }
    }

    /// Why a report is not what the schema says.
    pub fn check(&self, report: &Value) -> Result<(), String> {
        self.schemas
            .validate(report, self.index)
            .map_err(|error| format!("{error:#}"))
    }
}
