//! `{% generation %}` … `{% endgeneration %}` → a plain scope.
//!
//! transformers marks with these tags which text the assistant wrote (for training masks); rendering does not
//! need the mark, only the scope.  Everything else is left byte for byte.

/// `source` with generation tags turned into `with` tags.
pub(super) fn generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        let (text, tail) = rest.split_at(at);
        out.push_str(text);
        let end = match tail.as_bytes().get(1) {
            Some(b'#') if !raw => tail.find("#}").map(|e| e + 2),
            Some(b'{') if !raw => end_of(tail, "}}"),
            Some(b'%') => end_of(tail, "%}"),
            _ => Some(1),
        };
        // An unclosed tag is the template engine's error to report.
        let Some((tag, behind)) = tail.split_at_checked(end.unwrap_or(tail.len())) else { break };
        let name = tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}")).map_or("", |t| t.trim_matches(['-', '+']).trim());
        match name {
            "endraw" => raw = false,
            "raw" => raw = true,
            _ => {}
        }
        match name {
            "generation" if !raw => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" if !raw => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            // Inside raw text a lone brace is text; what follows it may be `endraw`.
            _ if raw && name.is_empty() => {
                out.push('{');
                rest = tail.get(1..).unwrap_or_default();
                continue;
            }
            _ => out.push_str(tag),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Where `close` ends the tag, skipping quoted strings.
fn end_of(tag: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag.get(at..).is_some_and(|t| t.starts_with(close)) => return Some(at + close.len()),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_tags_change() {
        let cases = [
            ("a{%- generation -%}b{% endgeneration %}c", "a{%- with -%}b{% endwith %}c"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{# {% generation %} #}x", "{# {% generation %} #}x"),
            ("{% raw %}{% generation %}{{ {% endraw %}{%+ generation %}", "{% raw %}{% generation %}{{ {% endraw %}{%+ with %}"),
            ("{% set a = '%}' %}{%generation%}", "{% set a = '%}' %}{%with%}"),
            ("{ é {% unclosed", "{ é {% unclosed"),
            ("{% generation_mode %}", "{% generation_mode %}"),
            ("{{ \"\\\"}}\" }}{", "{{ \"\\\"}}\" }}{"),
        ];
        for (source, expected) in cases {
            assert_eq!(generation_tags(source), expected);
        }
    }
}
