use super::*;
use crate::config::Jail;
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) mode: Jail,
    pub(crate) role: Role,
    pub(crate) grants: Grants,
    pub(crate) identity: Option<(u32, u32)>,
    pub(crate) cgroup: Option<PathBuf>,
    #[cfg(feature = "test-hooks")]
    pub(crate) absent: Vec<Layer>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Zygote,
    Worker,
    Compiler,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Grants {
    pub(crate) files: bool,
    pub(crate) tcp: bool,
}
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    #[error("missing")]
    Missing(LayerReport),
    #[error("{0}")]
    System(#[from] std::io::Error),
}
pub(crate) struct Walls(Plan);
pub(crate) enum Split {
    Outside { pid: i32 },
    Inside { walls: Walls, moved: bool },
}
pub(crate) struct Sealed;
pub(crate) fn begin(plan: Plan) -> Result<Walls, JailError> {
    Ok(Walls(plan))
}
impl Walls {
    pub(crate) fn split(self) -> Result<Split, JailError> {
        Ok(Split::Inside {
            walls: self,
            moved: false,
        })
    }
    pub(crate) fn seal(self) -> Result<(Sealed, JailReport), JailError> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(std::io::Error::from)?;
        Ok((Sealed, JailReport::default()))
    }
}
pub(crate) struct TaskWalls<'a> {
    pub(crate) dirs: &'a [(BorrowedFd<'a>, bool)],
    pub(crate) tcp_ports: &'a [u16],
    pub(crate) memory: u64,
    pub(crate) cpu: Option<Duration>,
}
impl Sealed {
    pub(crate) fn tighten(&self, _task: &TaskWalls<'_>) -> Result<(), JailError> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(std::io::Error::from)?;
        Ok(())
    }
}
