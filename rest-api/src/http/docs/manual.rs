//! The manual for operators as a page. The view of the operations refers to its sections.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// Returns the page of a manual in Markdown. Each heading has an id, as GitHub gives it, so that links to sections work in
/// both. A link to another file of the repository becomes its text: the service does not have that file.
pub(super) fn page(markdown: &str) -> String {
    let events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let mut is_removed = false;
    let mut shown = Vec::with_capacity(events.len());
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                let (classes, attrs) = (classes.clone(), attrs.clone());
                let id = Some(CowStr::from(id(&events[at + 1..])));
                shown.push(Event::Start(Tag::Heading { level: *level, id, classes, attrs }));
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                is_removed = !["#", "https://"].iter().any(|start| dest_url.starts_with(start));
                shown.extend((!is_removed).then(|| event.clone()));
            }
            Event::End(TagEnd::Link) => shown.extend((!is_removed).then(|| event.clone())),
            _ => shown.push(event.clone()),
        }
    }
    let mut body = String::new();
    html::push_html(&mut body, shown.into_iter());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>movies-r-us: operations</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <link rel=\"stylesheet\" href=\"manual.css\">\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Returns the id of the heading whose content `events` begin with.
fn id(events: &[Event<'_>]) -> String {
    let content =
        events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let text: String = content
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(&**text),
            _ => None,
        })
        .collect();
    let is_kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    text.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_ids_and_links_to_files_are_text() {
        let page = page("## The `log`, in short\n[a](#b) [c](security.md) [d](https://e.example)");
        assert!(page.contains(r#"<h2 id="the-log-in-short">The <code>log</code>, in short</h2>"#));
        assert!(
            page.contains(r##"<a href="#b">a</a> c <a href="https://e.example">d</a>"##),
            "{page}"
        );
    }
}
