//! Whose turn it is: classes by weight, and within a class its tenants one after another.
//!
//! A class with weight 8 gets eight tasks for one of a class with weight 1, if both have tasks
//! (smooth weighted round robin, as in nginx); no class waits forever. How many tasks a tenant
//! has queued has no influence: of two tenants in a class, each gets every second turn.

use crate::error::Error;
use crate::protocol::Token;
use std::collections::HashMap;
use std::str::FromStr;

/// A class and a tenant in it: the subject `wrun.task.<class>.<tenant>`.
pub(crate) type LaneKey = (Token, Token);

/// How many turns each class gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(Vec<(Token, u32)>);

impl Weights {
    /// The weight of a class that is not named.
    pub const OTHERS: u32 = 4;
    /// Maximum of a weight.
    pub const MOST: u32 = 1000;

    /// The classes that are named.
    pub(crate) fn classes(&self) -> impl Iterator<Item = &Token> {
        self.0.iter().map(|(class, _)| class)
    }

    fn of(&self, class: &Token) -> u32 {
        let named = self.0.iter().find(|(name, _)| name == class);
        named.map_or(Self::OTHERS, |(_, weight)| *weight)
    }
}

impl Default for Weights {
    /// `high=16,normal=4,low=1`.
    fn default() -> Self {
        let named = [("high", 16), ("normal", 4), ("low", 1)];
        let named = named
            .into_iter()
            .filter_map(|(class, weight)| Some((class.parse().ok()?, weight)));
        Weights(named.collect())
    }
}

impl FromStr for Weights {
    type Err = Error;

    /// `CLASS=N,...` with N from 1 to 1000.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut weights = Vec::new();
        for part in text.split(',') {
            let wrong = || {
                Error::invalid(format!(
                    "{part:?} is not the weight of a class: expected CLASS=N with N from 1 to {}",
                    Self::MOST
                ))
            };
            let (class, weight) = part.split_once('=').ok_or_else(wrong)?;
            let class = class.parse().map_err(|_| wrong())?;
            let weight = weight
                .parse()
                .ok()
                .filter(|it| (1..=Self::MOST).contains(it));
            weights.push((class, weight.ok_or_else(wrong)?));
        }
        Ok(Weights(weights))
    }
}

/// The state of the turns.
#[derive(Debug)]
pub(crate) struct Turns {
    weights: Weights,
    /// What each class has saved up.
    credit: HashMap<Token, i64>,
    /// The tenant that had the last turn of its class.
    last: HashMap<Token, Token>,
}

impl Turns {
    pub(crate) fn new(weights: Weights) -> Self {
        Turns {
            weights,
            credit: HashMap::new(),
            last: HashMap::new(),
        }
    }

    /// Whose turn it is among these lanes, which are sorted and have tasks.
    pub(crate) fn next<'a>(
        &mut self,
        lanes: impl Iterator<Item = &'a LaneKey> + Clone,
    ) -> Option<LaneKey> {
        let mut classes: Vec<&Token> = Vec::new();
        for (class, _) in lanes.clone() {
            if classes.last() != Some(&class) {
                classes.push(class);
            }
        }
        let mut total = 0;
        for class in &classes {
            let weight = i64::from(self.weights.of(class));
            total += weight;
            *self.credit.entry((*class).clone()).or_default() += weight;
        }
        let class = classes
            .iter()
            .max_by_key(|class| self.credit.get(**class))?;
        let class = (*class).clone();
        *self.credit.entry(class.clone()).or_default() -= total;
        let tenants = lanes.filter(|lane| lane.0 == class).map(|lane| &lane.1);
        let after = match self.last.get(&class) {
            Some(last) => tenants.clone().find(|tenant| *tenant > last),
            // Workers that start together would all begin with the same tenant, and then go on to
            // the next together.
            None => {
                let count = tenants.clone().count().max(1);
                tenants.clone().nth(rand::random_range(0..count))
            }
        };
        let tenant = after.or_else(|| tenants.clone().next())?.clone();
        self.last.insert(class.clone(), tenant.clone());
        Some((class, tenant))
    }

    /// Forgets classes that have no lane.
    pub(crate) fn retain(&mut self, has: impl Fn(&Token) -> bool) {
        self.credit.retain(|class, _| has(class));
        self.last.retain(|class, _| has(class));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        text.parse().expect("a token")
    }

    fn counts(lanes: &[(&str, &str)], turns: usize) -> HashMap<LaneKey, usize> {
        let mut lanes: Vec<_> = lanes.iter().map(|(c, t)| (token(c), token(t))).collect();
        lanes.sort();
        let mut state = Turns::new(Weights::default());
        let mut counts = HashMap::new();
        for _ in 0..turns {
            *counts
                .entry(state.next(lanes.iter()).expect("a lane"))
                .or_default() += 1;
        }
        counts
    }

    #[test]
    fn classes_have_weights_and_tenants_take_turns() {
        let counts = counts(
            &[
                ("high", "a"),
                ("normal", "a"),
                ("normal", "b"),
                ("low", "c"),
            ],
            210,
        );
        assert_eq!(counts[&(token("high"), token("a"))], 160);
        assert_eq!(counts[&(token("normal"), token("a"))], 20);
        assert_eq!(counts[&(token("normal"), token("b"))], 20);
        assert_eq!(counts[&(token("low"), token("c"))], 10);
    }

    #[test]
    fn weights_are_read() {
        let weights: Weights = "a=2,b=1000".parse().expect("weights");
        assert_eq!(
            (weights.of(&token("a")), weights.of(&token("c"))),
            (2, Weights::OTHERS)
        );
        for bad in ["", "a", "a=", "a=0", "a=1001", "a=1,", "*=1"] {
            assert!(bad.parse::<Weights>().is_err(), "{bad}");
        }
    }
}
