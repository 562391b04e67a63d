//! Numbers in order.

/// Numbers in order, for their quantiles.
#[derive(Clone, Debug)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts numbers.
    pub fn new(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        Sorted(numbers)
    }

    /// The number that `part` of all (0 to 1) are not above, by the nearest rank; 0 of none.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a list of at most some millions"
        )]
        let at = (last as f64 * part).round() as usize;
        self.0.get(at).copied().unwrap_or(0.0)
    }

    /// The median; 0 of none.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// All of them, the smallest first.
    pub fn numbers(&self) -> &[f64] {
        &self.0
    }
}
