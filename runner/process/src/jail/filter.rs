//! A filter of system calls as a program for the kernel, by halves.
//!
//! `seccompiler` compiles a list of rules into comparisons one behind the other. The kernel tries
//! every call there is when a filter is installed, and a call of the guest at the end of the list
//! passes all of them. So the list is compiled in parts, and a few comparisons find the part of a
//! call. Invariant: each part is a whole program of `seccompiler` that decides for its numbers as the
//! list would.

use seccompiler::{BpfProgram, Error, SeccompAction, SeccompFilter, SeccompRule, sock_filter};
use std::collections::BTreeMap;

/// Calls of one part.
const PART: usize = 8;

/// Loads the number of the call, which comes first in the kernel's data.
const LOAD_NUMBER: sock_filter = sock_filter {
    code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
    jt: 0,
    jf: 0,
    k: 0,
};
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const GO_TO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;

/// Rules by the number of their call.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiles a filter that does `matched` for calls that a rule describes, and `otherwise` for others.
pub(super) fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    let mut rules: Vec<_> = rules.into_iter().collect();
    let mut parts = Vec::new();
    while !rules.is_empty() {
        let rest = rules.split_off(PART.min(rules.len()));
        let first = rules.first().map_or(0, |(number, _)| *number);
        let part = SeccompFilter::new(
            rules.into_iter().collect(),
            otherwise.clone(),
            matched.clone(),
            arch,
        )?;
        parts.push((u32::try_from(first).unwrap_or(0), part.try_into()?));
        rules = rest;
    }
    if parts.len() < 2 {
        let whole = parts.pop().map(|(_, part)| part);
        let empty = || SeccompFilter::new(Rules::new(), otherwise, matched, arch)?.try_into();
        return match whole {
            Some(whole) => Ok(whole),
            None => Ok(empty()?),
        };
    }
    let mut program = vec![LOAD_NUMBER];
    program.extend(halves(&parts));
    // Where a part begins, behind the comparisons.
    let mut begins = program.len();
    let mut starts = Vec::new();
    for (_, part) in &parts {
        starts.push(begins);
        begins += part.len();
    }
    let mut starts = starts.into_iter();
    for (at, instruction) in program.iter_mut().enumerate() {
        if instruction.code == GO_TO
            && let Some(start) = starts.next()
        {
            instruction.k = u32::try_from(start - at - 1).unwrap_or(u32::MAX);
        }
    }
    program.extend(parts.into_iter().flat_map(|(_, part)| part));
    Ok(program)
}

/// Comparisons that find the part of a number; the jumps to the parts are in their order, and not
/// filled in.
fn halves(parts: &[(u32, BpfProgram)]) -> Vec<sock_filter> {
    if parts.len() < 2 {
        return vec![instruction(GO_TO, 0, 0)];
    }
    let (lower, upper) = parts.split_at(parts.len() / 2);
    let first = upper.first().map_or(0, |(first, _)| *first);
    let below = halves(lower);
    // Two instructions for a part: the length fits for more parts than there are calls.
    let over = u8::try_from(below.len()).unwrap_or(u8::MAX);
    let mut program = vec![instruction(IF_AT_LEAST, over, first)];
    program.extend(below);
    program.extend(halves(upper));
    program
}

fn instruction(code: u16, jt: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Grants, Role};
    use super::super::seccomp::rules;
    use super::super::syscalls::{ALLOWED, FATAL, TAKEN};
    use super::*;
    use seccompiler::TargetArch;

    /// Runs a program on the kernel's data: number, architecture, address, arguments.
    fn run(program: &[sock_filter], data: &[u32; 16]) -> u32 {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                0x20 => value = data[k as usize / 4],
                0x54 => value &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(value == k),
                0x25 => at += jump(value > k),
                0x35 => at += jump(value >= k),
                0x45 => at += jump(value & k != 0),
                0x06 => return k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn parts_decide_as_the_whole_list() {
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("known");
        let number = match std::env::consts::ARCH {
            "x86_64" => 0xc000_003e,
            _ => 0xc000_00b7,
        };
        let all = Grants {
            files: true,
            mapped: true,
            tcp: true,
            talks: true,
            regions: true,
        };
        let refuse = SeccompAction::Errno(1);
        // What the rows look for, and values beside it.
        let values = [
            0,
            1,
            2,
            3,
            4,
            5,
            8,
            9,
            10,
            0x7e57_0001,
            1 << 17,
            1 << 20,
            u32::MAX,
        ];
        for rows in [ALLOWED, FATAL, TAKEN] {
            for (role, grants) in [
                (Role::Worker, Grants::default()),
                (Role::Zygote, all),
                (Role::Worker, all),
                (Role::Compiler, Grants::default()),
            ] {
                let make = || rules(rows, role, grants).expect("rules");
                let whole = SeccompFilter::new(make(), refuse.clone(), SeccompAction::Allow, arch);
                let whole: BpfProgram = whole.and_then(TryInto::try_into).expect("compiles");
                let parts =
                    compile(make(), refuse.clone(), SeccompAction::Allow).expect("so does it");
                assert!(parts.len() < 4096);
                let mut allowed = 0;
                for call in (0..600).chain([0x4000_0000, 0x4000_0101, u32::MAX]) {
                    for architecture in [number, 0x4000_0003] {
                        for value in values {
                            for argument in 0..6 {
                                let mut data = [0; 16];
                                data[0] = call;
                                data[1] = architecture;
                                data[4 + 2 * argument] = value;
                                let verdict = run(&whole, &data);
                                assert_eq!(run(&parts, &data), verdict, "{call} {data:?}");
                                allowed += u32::from(verdict == 0x7fff_0000);
                            }
                        }
                    }
                }
                assert!(allowed > 0);
            }
        }
    }
}
