//! Stands in until the page is merged.
impl super::Results {
    /// The page.
    pub fn to_html(&self) -> String {
        String::new()
    }
}
