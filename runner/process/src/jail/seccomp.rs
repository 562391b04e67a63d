//! The system calls that a worker may make: compiles [`syscalls`](super::syscalls) into the
//! kernel's filters.
//!
//! A filter has one action, so there are three filters, and the strictest action counts: a
//! call that only an escape would make ends the process; `clone3` does not exist, because a
//! filter cannot read its flags; and a call that is not on the list is refused.

use super::filter::{Rules, compile};
use super::plan::{Grants, Role};
use super::syscalls::{ALLOWED, FATAL, Row, TAKEN, Test};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompRule, apply_filter,
};

/// Stands for the process's own number in a filter that is compiled before the process
/// exists. No process has it: numbers end at 2^22.
const OWN: u32 = 0x7e57_0001;

/// Installs a role's filters.
pub(super) fn apply(role: Role, grants: Grants, pid: u32) -> Result<(), Error> {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let fatal = rules(FATAL, role, grants)?;
    let allowed = rules(ALLOWED, role, grants)?;
    // The list comes last: it may not allow installing a filter.
    for filter in [
        compile(clone3, SeccompAction::Allow, absent)?,
        compile(fatal, SeccompAction::Allow, SeccompAction::KillProcess)?,
        compile(allowed, refused, SeccompAction::Allow)?,
    ] {
        apply_filter(&owned_by(filter, pid))?;
    }
    Ok(())
}

/// The filter that removes what is only needed before a task. Small, because it is
/// installed for every task.
pub(super) fn taken(grants: Grants) -> Result<BpfProgram, Error> {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let rules = rules(TAKEN, Role::Zygote, grants)?;
    compile(rules, SeccompAction::Allow, refused)
}

/// Installs the filter that [`taken`] compiled.
pub(super) fn take(taken: &BpfProgram, pid: u32) -> Result<(), Error> {
    apply_filter(&owned_by(taken.clone(), pid))
}

fn owned_by(mut filter: BpfProgram, pid: u32) -> BpfProgram {
    for instruction in &mut filter {
        if instruction.k == OWN {
            instruction.k = pid;
        }
    }
    filter
}

/// The rows for this role. For a call with a row without tests, its other rows are not
/// needed.
pub(super) fn rules(rows: &[Row], role: Role, grants: Grants) -> Result<Rules, Error> {
    let mut rules = Rules::new();
    let mut always = Vec::new();
    for row in rows.iter().filter(|row| row.who.is(role, grants)) {
        let of_call = rules.entry(row.number).or_default();
        if row.tests.is_empty() {
            always.push(row.number);
        }
        for conditions in alternatives(row.tests)? {
            of_call.push(SeccompRule::new(conditions)?);
        }
    }
    for number in always {
        rules.insert(number, Vec::new());
    }
    Ok(rules)
}

/// Every combination in which all tests hold.
fn alternatives(tests: &[Test]) -> Result<Vec<Vec<SeccompCondition>>, Error> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let mut ways = vec![Vec::new()];
    for test in tests {
        let conditions = match *test {
            Test::OneOf(arg, values) => values
                .iter()
                .map(|value| SeccompCondition::new(arg, Dword, Eq, u64::from(*value)))
                .collect(),
            Test::Bits { arg, mask, value } => vec![SeccompCondition::new(
                arg,
                Dword,
                MaskedEq(u64::from(mask)),
                u64::from(value),
            )],
            Test::Null(arg) => vec![SeccompCondition::new(arg, Qword, Eq, 0)],
            Test::NotNull(arg) => vec![SeccompCondition::new(arg, Qword, Ne, 0)],
            Test::Own(arg) => vec![SeccompCondition::new(arg, Dword, Eq, u64::from(OWN))],
            Test::NotOwn(arg) => vec![SeccompCondition::new(arg, Dword, Ne, u64::from(OWN))],
        };
        let conditions = conditions.into_iter().collect::<Result<Vec<_>, _>>()?;
        ways = ways
            .iter()
            .flat_map(|way| {
                conditions.iter().map(move |condition| {
                    let mut way = way.clone();
                    way.push(condition.clone());
                    way
                })
            })
            .collect();
    }
    Ok(ways)
}
