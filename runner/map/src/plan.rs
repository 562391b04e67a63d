//! *What* to run: from an input to the order for one run of the task. Knows no runner, so the
//! same plan can be carried out on this machine or on others.

use crate::input::{Input, InputError, Payload};
use crate::template::Template;
use bytes::Bytes;

/// What is run for each input: the arguments, and how the task gets the input.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    args: Vec<Template>,
    pass: Pass,
}

/// How a task gets its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// As its input: the argument of `run`, or the stdin of a command.
    #[default]
    Input,
    /// In its arguments; its input is empty. For a file, the argument is its path.
    Arguments,
}

/// One run of the task.
#[derive(Clone, Debug)]
pub struct Order {
    /// The position of the input, from 0.
    pub index: u64,
    /// The arguments, without the name of the task.
    pub args: Vec<String>,
    /// The input.
    pub payload: Payload,
}

impl Plan {
    /// A task without arguments, which gets each input as its input.
    pub fn new() -> Self {
        Plan::default()
    }

    /// Arguments of each run. If one has a place for the input (`{}`), inputs are passed in the
    /// arguments, unless [`Plan::pass`] changes that.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Template::new).collect();
        self.pass = match self.args.iter().any(Template::takes_input) {
            true => Pass::Arguments,
            false => Pass::Input,
        };
        self
    }

    /// How each run gets its input.
    pub fn pass(mut self, pass: Pass) -> Self {
        self.pass = pass;
        self
    }

    /// The order for the input at this position.
    ///
    /// # Errors
    ///
    /// The input could not be read, or an argument would not be UTF-8.
    pub fn order(&self, index: u64, input: &Input) -> Result<Order, InputError> {
        let payload = input.payload.clone()?;
        let subject = input.subject(index + 1);
        let args = self.args.iter().map(|arg| arg.fill(subject));
        Ok(Order {
            index,
            args: args.collect::<Result<_, _>>()?,
            payload: match self.pass {
                Pass::Input => payload,
                Pass::Arguments => Payload::Bytes(Bytes::new()),
            },
        })
    }

    /// Its settings as text, for the identity of a journal.
    pub fn describe(&self) -> String {
        let args: Vec<_> = self.args.iter().map(Template::source).collect();
        format!("{:?} {args:?}", self.pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_for_the_input_leaves_stdin_empty() {
        let input = Input::bytes("n", "text");
        let order = Plan::new().args(["-x", "{#}"]).order(4, &input);
        let order = order.expect("an order");
        assert_eq!(order.args, ["-x", "5"]);
        assert_eq!(order.payload.len(), 4);
        let plan = Plan::new().args(["{}"]);
        let order = plan.order(0, &input).expect("an order");
        assert_eq!((order.args, order.payload.len()), (vec!["text".into()], 0));
        let order = plan.pass(Pass::Input).order(0, &input).expect("an order");
        assert_eq!(order.payload.len(), 4);
        assert!(Plan::new().order(0, &Input::unusable("n", "gone")).is_err());
    }
}
