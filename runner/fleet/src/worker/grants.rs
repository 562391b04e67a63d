//! What the operator of a worker allows: grants under names, modules under names, the most that
//! a task may ask for. Read from a file in TOML.
//!
//! Invariant: what a task reaches comes from here. A message has names only.

use crate::error::{Error, ErrorKind};
use crate::protocol::{TaskLimits, TaskMessage};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{DirGrant, HttpGrant, Limits, Task, TcpGrant};

/// The longest file of settings: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// The settings of a worker's operator. The default grants nothing.
#[derive(Clone, Debug, Default)]
pub struct WorkerConfig {
    grants: BTreeMap<String, Granted>,
    modules: BTreeMap<String, PathBuf>,
    limits: MaxLimits,
}

/// The most that a task may ask for, and what it gets if it asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaxLimits {
    /// Time to run. Default: 1 hour.
    pub timeout: Duration,
    /// Linear memory in bytes. Default: 4 GiB; a task that asks for nothing gets
    /// [`Limits::max_memory`]'s default.
    pub max_memory: u64,
    /// Output in bytes, stdout and stderr each. Default: 64 MiB; a task that asks for nothing
    /// gets 16 MiB.
    pub max_output: u64,
    /// Input in bytes. Default: 16 GiB.
    pub max_input: u64,
    /// Child tasks at the same time. Default: 64, also for a task that asks for nothing.
    pub max_tasks: u32,
    /// Levels of child tasks. Default: 8, also for a task that asks for nothing.
    pub max_depth: u32,
    /// Linear memory of a task and its child tasks together, in bytes; at least
    /// [`MaxLimits::max_memory`] of the task. Default: 8 GiB.
    pub max_total_memory: u64,
}

impl Default for MaxLimits {
    fn default() -> Self {
        MaxLimits {
            timeout: Duration::from_secs(3600),
            max_memory: 4 << 30,
            max_output: 64 << 20,
            max_input: 16 << 30,
            max_tasks: 64,
            max_depth: 8,
            max_total_memory: 8 << 30,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Granted {
    dirs: Vec<DirGrant>,
    tcp: Vec<TcpGrant>,
    http: Vec<HttpGrant>,
    env: BTreeMap<String, String>,
    tenants: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    grants: BTreeMap<String, GrantForm>,
    #[serde(default)]
    modules: BTreeMap<String, PathBuf>,
    #[serde(default)]
    limits: LimitsForm,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GrantForm {
    #[serde(default)]
    dirs: Vec<String>,
    #[serde(default)]
    tcp: Vec<String>,
    #[serde(default)]
    http: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    tenants: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsForm {
    timeout_seconds: Option<u64>,
    max_memory: Option<u64>,
    max_output: Option<u64>,
    max_input: Option<u64>,
    max_tasks: Option<u32>,
    max_depth: Option<u32>,
    max_total_memory: Option<u64>,
}

impl LimitsForm {
    fn limits(self) -> Result<MaxLimits, String> {
        let default = MaxLimits::default();
        let up_to = |what: &str, asked: Option<u32>, default: u32, most: u32| match asked {
            Some(asked) if asked > most => {
                Err(format!("limits: {what} is {asked}: expected 0 to {most}"))
            }
            asked => Ok(asked.unwrap_or(default)),
        };
        let (tasks, depth) = (Limits::MAX_TASKS, Limits::MAX_DEPTH);
        Ok(MaxLimits {
            timeout: self
                .timeout_seconds
                .map_or(default.timeout, Duration::from_secs),
            max_memory: self.max_memory.unwrap_or(default.max_memory),
            max_output: self.max_output.unwrap_or(default.max_output),
            max_input: self.max_input.unwrap_or(default.max_input),
            max_tasks: up_to("max-tasks", self.max_tasks, default.max_tasks, tasks)?,
            max_depth: up_to("max-depth", self.max_depth, default.max_depth, depth)?,
            max_total_memory: self.max_total_memory.unwrap_or(default.max_total_memory),
        })
    }
}

impl WorkerConfig {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if it cannot be read; [`ErrorKind::Invalid`] for what is not a setting,
    /// a directory that does not exist, a host that has no address.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let wrong = |why: String| Error::invalid(format!("{shown}: {why}"));
        let io = |error| Error::new(ErrorKind::Io, format!("cannot read {shown}: {error}"));
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > MAX_FILE {
            return Err(wrong(format!(
                "it has {length} bytes: at most {MAX_FILE} are allowed"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let mut config = Self::parse(&text).map_err(wrong)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        for module in config.modules.values_mut() {
            *module = beside.join(&module);
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut grants = BTreeMap::new();
        for (name, form) in file.grants {
            let granted = form
                .granted()
                .map_err(|why| format!("grant {name:?}: {why}"))?;
            grants.insert(name, granted);
        }
        Ok(WorkerConfig {
            grants,
            modules: file.modules,
            limits: file.limits.limits()?,
        })
    }

    /// The file of a module that is defined here.
    pub(crate) fn module(&self, name: &str) -> Option<&Path> {
        self.modules.get(name).map(PathBuf::as_path)
    }

    /// Names of grants, for people.
    pub fn grants(&self) -> impl Iterator<Item = &str> {
        self.grants.keys().map(String::as_str)
    }

    pub(crate) fn limits(&self) -> &MaxLimits {
        &self.limits
    }

    /// Adds what a task of this tenant asks for.
    pub(crate) fn grant(
        &self,
        mut task: Task,
        names: &[String],
        tenant: &str,
    ) -> Result<Task, String> {
        for name in names {
            let granted = self.grants.get(name).filter(|granted| {
                let tenants = granted.tenants.as_ref();
                tenants.is_none_or(|tenants| tenants.iter().any(|it| it == tenant))
            });
            let Some(granted) = granted else {
                return Err(format!(
                    "this worker has no grant {name:?} for tenant {tenant:?}: its operator \
                     defines grants in the file of --config"
                ));
            };
            for grant in &granted.dirs {
                task = task.dir(grant.clone());
            }
            for grant in &granted.tcp {
                task = task.allow_tcp(grant.clone());
            }
            for grant in &granted.http {
                task = task.allow_http(grant.clone());
            }
            for (key, value) in &granted.env {
                task = task.env(key, value);
            }
        }
        Ok(task)
    }

    /// The limits of a task, if its message does not ask for too much.
    pub(crate) fn limits_of(
        &self,
        message: &TaskMessage,
        left: Option<Duration>,
    ) -> Result<Limits, String> {
        let TaskLimits {
            timeout_ms,
            fuel,
            max_memory,
            max_output,
            max_input,
            max_tasks,
            max_depth,
        } = message.limits;
        let most = &self.limits;
        let within = |what: &str, asked: u64, most: u64| match asked <= most {
            true => Ok(asked),
            false => Err(format!(
                "{what} of {asked} is more than the {most} that the operator of this worker allows"
            )),
        };
        let millis = u64::try_from(most.timeout.as_millis()).unwrap_or(u64::MAX);
        let mut timeout = match timeout_ms {
            None => most.timeout,
            Some(asked) => Duration::from_millis(within("timeout_ms", asked, millis)?),
        };
        if let Some(left) = left {
            timeout = timeout.min(left);
        }
        let mut limits = Limits::default().timeout(timeout);
        let memory = max_memory.unwrap_or(limits.max_memory.min(most.max_memory));
        limits = limits.max_memory(within("max_memory", memory, most.max_memory)?);
        let output = max_output.unwrap_or(Limits::CAPTURE_DEFAULT.min(most.max_output));
        limits = limits.max_output(within("max_output", output, most.max_output)?);
        if let Some(input) = max_input {
            limits = limits.max_input(within("max_input", input, most.max_input)?);
        }
        if let Some(fuel) = fuel {
            limits = limits.fuel(fuel);
        }
        let count = |what, asked: Option<u32>, most: u32| {
            within(what, asked.unwrap_or(most).into(), most.into()).map(|_| asked.unwrap_or(most))
        };
        limits = limits.max_tasks(count("max_tasks", max_tasks, most.max_tasks)?);
        limits = limits.max_depth(count("max_depth", max_depth, most.max_depth)?);
        limits.max_total_memory = most.max_total_memory.max(limits.max_memory);
        Ok(limits)
    }
}

impl GrantForm {
    fn granted(self) -> Result<Granted, String> {
        fn all<T: std::str::FromStr<Err: std::fmt::Display>>(
            texts: &[String],
        ) -> Result<Vec<T>, String> {
            let parse = |text: &String| text.parse().map_err(|why: T::Err| why.to_string());
            texts.iter().map(parse).collect()
        }
        let dirs: Vec<DirGrant> = all(&self.dirs)?;
        for text in &self.dirs {
            let host = text.split("::").next().unwrap_or_default();
            let host = host.trim_end_matches(":ro").trim_end_matches(":rw");
            if !Path::new(host).is_dir() {
                return Err(format!("{host} is not a directory"));
            }
        }
        Ok(Granted {
            dirs,
            tcp: all(&self.tcp)?,
            http: all(&self.http)?,
            env: self.env,
            tenants: self.tenants,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_strict() {
        let config = WorkerConfig::parse(
            "[grants.tmp]\ndirs = ['/tmp::/in:ro']\nenv = { A = 'b' }\ntenants = ['a']\n\
             [modules]\ncount = 'count.wasm'\n[limits]\nmax-memory = 1000",
        );
        let config = config.expect("valid");
        assert_eq!(config.grants().collect::<Vec<_>>(), ["tmp"]);
        assert_eq!(config.limits.max_memory, 1000);
        assert!(config.module("count").is_some() && config.module("../x").is_none());
        for (text, words) in [
            ("[grants.a]\ndirs = ['/no/such']", "not a directory"),
            ("[grants.a]\ntcp = ['x']", "grant \"a\""),
            ("[grants.a]\nroot = true", "unknown field"),
            ("colour = 1", "unknown field"),
            ("[limits]\nmax-memory = -1", "invalid value"),
            ("[limits]\nmax-tasks = 4097", "expected 0 to 4096"),
        ] {
            let why = WorkerConfig::parse(text).expect_err(text);
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn a_task_cannot_ask_for_more_than_the_operator_allows() {
        let config = WorkerConfig::parse("[limits]\ntimeout-seconds = 10").expect("valid");
        let message = |limits: serde_json::Value| {
            let message = json!({"v": 1, "id": "a", "module": {"name": "m"}, "limits": limits});
            TaskMessage::decode(message.to_string().as_bytes()).expect("valid")
        };
        let limits = |value, left| config.limits_of(&message(value), left);
        let second = Duration::from_secs(1);
        assert_eq!(
            limits(json!({}), None).expect("limits").timeout,
            Some(second * 10)
        );
        let left = limits(json!({"timeout_ms": 5000}), Some(second)).expect("limits");
        assert_eq!(left.timeout, Some(second));
        let why = limits(json!({"timeout_ms": 10_001}), None).expect_err("too long");
        assert!(why.contains("operator"), "{why}");
        assert!(limits(json!({"max_memory": 5_u64 << 30}), None).is_err());
        let mut tree = message(json!({}));
        let limits = config.limits_of(&tree, None).expect("limits");
        assert_eq!((limits.max_tasks, limits.max_depth), (64, 8));
        tree.limits.max_tasks = Some(65);
        let why = config.limits_of(&tree, None).expect_err("many");
        assert!(why.contains("max_tasks of 65"), "{why}");
        tree.limits.max_tasks = Some(2);
        let limits = config.limits_of(&tree, None).expect("limits");
        assert_eq!(limits.max_tasks, 2);
    }
}
