//! What a journal was made for.

/// What must be the same for a batch to go on, each as text. It is compared, and kept as a digest:
/// a value of the environment can be a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The task: the digest of its file.
    pub task: String,
    /// Its arguments.
    pub arguments: String,
    /// Where its inputs come from. What they are has a digest of its own.
    pub inputs: String,
    /// What it is granted.
    pub grants: String,
    /// Its limits.
    pub limits: String,
    /// Where the output goes, and its format.
    pub output: String,
}

impl Identity {
    pub(crate) const NAMES: [&str; 6] =
        ["task", "arguments", "inputs", "grants", "limits", "output"];

    /// The digests, in the order of the names.
    pub(crate) fn digests(&self) -> [String; 6] {
        let Identity {
            task,
            arguments,
            inputs,
            grants,
            limits,
            output,
        } = self;
        [task, arguments, inputs, grants, limits, output]
            .map(|text| blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    /// The names of what differs from those digests.
    pub(crate) fn differences(&self, digests: &[String; 6]) -> Vec<&'static str> {
        let both = self.digests().into_iter().zip(digests).zip(Identity::NAMES);
        both.filter_map(|((one, two), name)| (one != *two).then_some(name))
            .collect()
    }
}
