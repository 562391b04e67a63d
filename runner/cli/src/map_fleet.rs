//! `wrun map --on`: a fleet as the place of a batch.

use super::grant_args::TaskFile;
use super::map_args::MapArgs;
use super::nats_args::failure;
use super::{Failure, fleet, text, traces};
use std::collections::BTreeMap;
use std::path::Path;
use wrun::Artifact;
use wrun_fleet::{Fleet, FleetPlace, PlaceSettings, QueueLimits, TaskId, TaskLimits, Token};
use wrun_map::Journal;

/// Tasks that are submitted at the same time, if nothing else is said.
pub(super) const IN_FLIGHT: usize = 1024;

/// Connects, stores the module, and makes the place.
pub(super) async fn place(
    args: &MapArgs,
    path: &Path,
    artifact: &Artifact,
    journal: Option<&Journal>,
) -> Result<FleetPlace, Failure> {
    let connect = args.connection.connect(args.on.as_deref())?;
    let quiet = args.quiet;
    let told = move |line: &str| {
        if !quiet {
            text::complain(line);
        }
    };
    let changed = move |line: String| {
        if line != "connected to NATS" {
            told(&line);
        }
    };
    let limits = QueueLimits::default();
    let fleet = Fleet::connect(&connect, "wrun map", &limits, changed).await;
    let fleet = fleet.map_err(failure)?;
    let module = fleet
        .put_module(&fleet::read_module(path)?)
        .await
        .map_err(failure)?;
    let mut tasks = BTreeMap::new();
    for TaskFile { name, file } in &args.grants.children.task {
        let stored = fleet.put_module(&fleet::read_module(file)?).await;
        tasks.insert(name.clone(), stored.map_err(failure)?);
    }
    let limits = TaskLimits {
        max_tasks: args.max_tasks,
        max_depth: args.max_depth,
        ..TaskLimits::of(&args.limits())
    };
    // With a journal the same batch has the same tasks when it goes on.
    let batch = match journal {
        Some(journal) => format!(
            "m{}",
            &wrun_fleet::Digest::of(journal.id().as_bytes()).to_string()[..24]
        ),
        None => format!("m{}", &TaskId::random().as_str()[..24]),
    };
    let batch = batch.parse::<Token>();
    let batch = batch.map_err(|error| Failure::new(super::exit::RUNNER, error.to_string()))?;
    let fleet = fleet.tracing(traces::of_batch(batch.as_str()));
    let settings = PlaceSettings {
        class: args.class.clone(),
        tenant: args.tenant.clone(),
        module,
        name: artifact.name().to_owned(),
        limits,
        grants: args.grant.clone(),
        tasks,
        retries: args.retries,
        batch,
        is_resumed: args.resume,
    };
    Ok(FleetPlace::new(fleet, settings, move |why| {
        told(&format!("{why}; trying again"))
    }))
}
