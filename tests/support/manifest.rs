//! `guest-tasks/manifest.json`: every guest, and what is expected of it.

use super::repo;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub fn guests() -> PathBuf {
    repo("guest-tasks").canonicalize().unwrap()
}

pub fn manifest() -> Vec<Value> {
    let text = fs::read_to_string(guests().join("manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{value}: {key} is not a text"))
}

/// The guest, and what it may start.
pub fn files(case: &Value) -> impl Iterator<Item = PathBuf> {
    let tasks = case["tasks"].as_object().into_iter().flatten();
    let names = std::iter::once(text(case, "guest"));
    let names = names.chain(tasks.map(|(_, file)| file.as_str().unwrap()));
    names.map(|name| guests().join(name))
}

pub fn title(case: &Value) -> String {
    format!("{}, {}", text(case, "guest"), text(case, "case"))
}

/// The options that grant what a case is to have, and the folders that it may write to,
/// which are made.
pub fn grants(case: &Value, scratch: &Path) -> (Vec<String>, Vec<PathBuf>) {
    let (mut options, mut writable) = (Vec::new(), Vec::new());
    for (number, dir) in case["dirs"].as_array().into_iter().flatten().enumerate() {
        let host = match dir["host"].as_str() {
            Some(host) => guests().join(host),
            None => {
                let fresh = scratch.join(format!("dir-{number}"));
                fs::create_dir(&fresh).unwrap();
                writable.push(fresh.clone());
                fresh
            }
        };
        let read_only = if dir["read_only"] == json!(true) {
            ":ro"
        } else {
            ""
        };
        let guest = text(dir, "guest");
        options.push(format!("--dir={}::{guest}{read_only}", host.display()));
    }
    for (key, value) in case["env"].as_object().into_iter().flatten() {
        options.push(format!("--env={key}={}", value.as_str().unwrap()));
    }
    for (name, file) in case["tasks"].as_object().into_iter().flatten() {
        let file = guests().join(file.as_str().unwrap());
        options.push(format!("--task={name}={}", file.display()));
    }
    (options, writable)
}
