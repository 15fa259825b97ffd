//! Markdown that GitHub renders and a diff can be read in.

/// Tells readers and editors of a page where its text comes from.
const NOTICE: &str = "<!-- `make docs` writes this page from the code. Edits are overwritten. -->";

/// A page that begins with its title and the notice that it is generated.
pub fn page(title: &str, body: &str) -> String {
    format!("{NOTICE}\n\n# {title}\n\n{}\n", body.trim_end())
}

/// A table; empty without rows.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut text = line(&mut header.iter().map(|cell| (*cell).to_owned()));
    text.push_str(&line(&mut header.iter().map(|_| "---".to_owned())));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(|text| cell(text))));
    }
    text.push('\n');
    text
}

/// Inline code; nothing for an empty text.
pub fn code(text: &str) -> String {
    match text {
        "" => String::new(),
        text if text.contains('`') => format!("`` {text} ``"),
        text => format!("`{text}`"),
    }
}

/// One paragraph on one line.
pub fn paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A table's cell holds no line break, and a bar would end it.
fn cell(text: &str) -> String {
    paragraph(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_one_cell_whatever_it_holds() {
        let text = table(&["a", "b"], &[vec!["one\n two".into(), code("x|y")]]);
        assert_eq!(text, "| a | b |\n| --- | --- |\n| one two | `x\\|y` |\n\n");
    }

    #[test]
    fn a_table_without_rows_is_nothing() {
        assert_eq!(table(&["a"], &[]), "");
    }
}
