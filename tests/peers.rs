//! docs/peers.md says what docs/peers.json says, and each row of it has a word on
//! what stands around its tasks.

use crate::support::repo;
use described::{PEERS, described};
use std::collections::BTreeSet;
use std::fs;
use table::{Measured, Spread, Work, markdown};

#[path = "../runner/cli/benches/peers/described.rs"]
mod described;
#[path = "../runner/cli/benches/peers/table.rs"]
mod table;

fn measured() -> Measured {
    serde_json::from_slice(&fs::read(repo("docs/peers.json")).unwrap()).unwrap()
}

#[test]
fn the_page_is_made_of_the_numbers() {
    let page = fs::read_to_string(repo("docs/peers.md")).unwrap();
    let made = markdown(&measured());
    for (number, (page, made)) in page.lines().zip(made.lines()).enumerate() {
        assert_eq!(
            page,
            made,
            "docs/peers.md, line {}: make it again with `cargo bench -p wrun-cli --bench peers -- \
             --render docs/peers.json --markdown docs/peers.md`",
            number + 1
        );
    }
    assert_eq!(page, made);
}

#[test]
fn every_row_is_described_and_every_peer_has_a_row() {
    let measured = measured();
    let mut there = BTreeSet::new();
    for row in &measured.rows {
        let Some(words) = described(&row.id) else {
            panic!("docs/peers.json: there is no description of {}", row.id);
        };
        there.insert(words.name);
        let said = [&row.name, &row.state, &row.walls, &row.crash, &row.endless];
        let words_now = [
            words.name,
            words.state,
            words.walls,
            words.crash,
            words.endless,
        ];
        assert_eq!(said, words_now, "{}", row.id);
        assert!(words_now.iter().all(|it| !it.is_empty()), "{}", row.id);
        assert_eq!(row.fresh, words.fresh, "{}", row.id);
        assert_eq!(row.again_ns.is_some(), words.caches, "{}", row.id);
    }
    let skipped = measured.skipped.iter().map(|(name, why)| {
        assert!(!why.is_empty(), "{name} is missing without a reason");
        name.as_str()
    });
    there.extend(skipped);
    let all: BTreeSet<&str> = PEERS.iter().map(|peer| peer.name).collect();
    assert_eq!(there, all, "rows of docs/peers.json");
    let ids: BTreeSet<&str> = PEERS.iter().map(|peer| peer.id).collect();
    assert_eq!(ids.len(), PEERS.len(), "two peers have one id");
}

#[test]
fn the_numbers_can_be_numbers() {
    let measured = measured();
    let sane = |id: &str, spread: &Spread| {
        assert!(
            0.0 < spread.p10 && spread.p10 <= spread.median && spread.median <= spread.p90,
            "{id}: {} {} {}",
            spread.p10,
            spread.median,
            spread.p90
        );
    };
    for row in &measured.rows {
        sane(&row.id, &row.first_ns);
        for Work {
            p50_ns,
            p99_ns,
            tasks,
            per_second,
            processor_ns,
        } in [&row.small, &row.compute, &row.large]
        {
            sane(&row.id, p50_ns);
            sane(&row.id, per_second);
            sane(&row.id, processor_ns);
            assert_eq!(p99_ns.is_some(), *tasks >= 100, "{}", row.id);
            assert!(p99_ns.is_none_or(|p99| p99 >= p50_ns.p10), "{}", row.id);
        }
    }
    assert!(measured.rounds >= 3 && measured.in_flight > 0);
}
