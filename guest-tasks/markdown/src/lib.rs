//! Markdown in, HTML out: the smallest realistic component.

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        // `err` is for what is wrong with the input: the outcome is `failed`,
        // not a trap, and the words reach whoever ran the task.
        let text = std::str::from_utf8(&input)
            .map_err(|e| format!("the input is not UTF-8 from byte {} on", e.valid_up_to()))?;
        let options = pulldown_cmark::Options::ENABLE_TABLES
            | pulldown_cmark::Options::ENABLE_STRIKETHROUGH
            | pulldown_cmark::Options::ENABLE_FOOTNOTES;
        let mut html = String::with_capacity(text.len() * 3 / 2);
        pulldown_cmark::html::push_html(&mut html, pulldown_cmark::Parser::new_ext(text, options));
        Ok(html.into_bytes())
    }
}

export!(Task);
