//! Tests of `parse` with texts that the schema allows and texts that it forbids.

use schema::{Fault, MAX_EXPLAINED, Movie, Notification, parse};
use serde_json::json;

/// Returns the faults of a movie, none if it is valid.
fn faults(json: &str) -> Vec<Fault> {
    parse::<Movie>(json.as_bytes()).err().unwrap_or_default().to_vec()
}

fn pointers(json: &str) -> Vec<String> {
    faults(json).into_iter().map(|fault| fault.pointer).collect()
}

#[test]
fn accepts_what_the_schema_allows() {
    let long = "é".repeat(1000);
    for json in [
        r#"{"title":"M","year":1931}"#,
        r#"{"title":"M","year":1870,"cast":[],"genres":[]}"#,
        r#"{"title":"M","year":2200,"href":null,"extract":null,"thumbnail":null,"thumbnail_width":null}"#,
        r#"{"title":"M","year":2200,"cast":null,"genres":null}"#,
        r#"{"title":"M","year":1931.0}"#,
        r#"{"title":"M","year":1.931e3}"#,
        r#"{"title":"\u041c \ud83c\udfac\t","year":1931,"cast":["Peter Lorre"],"extract":""}"#,
        &format!(r#"{{"title":"{long}","year":1931}}"#),
    ] {
        assert_eq!(faults(json), [], "{json}");
    }
}

#[test]
fn fault_pointers_locate_invalid_values() {
    let long = "é".repeat(1001);
    for (json, expected) in [
        (r#"{"year":1931}"#, vec!["/title"]),
        (r#"{}"#, vec!["/title", "/year"]),
        (r#"{"title":"","year":1931}"#, vec!["/title"]),
        (&format!(r#"{{"title":"{long}","year":1931}}"#), vec!["/title"]),
        (r#"{"title":null,"year":1931}"#, vec!["/title"]),
        (r#"{"title":"M","year":"1931"}"#, vec!["/year"]),
        (r#"{"title":"M","year":1869}"#, vec!["/year"]),
        (r#"{"title":"M","year":2201}"#, vec!["/year"]),
        (r#"{"title":"M","year":1931.5}"#, vec!["/year"]),
        (r#"{"title":"M","year":1e300}"#, vec!["/year"]),
        (r#"{"title":"M","year":18446744073709551615}"#, vec!["/year"]),
        (r#"{"title":"M","year":1931,"cast":"x"}"#, vec!["/cast"]),
        (r#"{"title":"M","year":1931,"cast":["a",""]}"#, vec!["/cast/1"]),
        (r#"{"title":"M","year":1931,"cast":["a\u001fb"]}"#, vec!["/cast/0"]),
        (r#"{"title":"M\u0000","year":1931}"#, vec!["/title"]),
        (r#"{"title":"M","year":1931,"genre":["x"]}"#, vec!["/genre"]),
        (r#"{"title":"M","year":1931,"a/b~c":1}"#, vec!["/a~1b~0c"]),
        (r#"{"title":"M","year":1931,"thumbnail_width":-1}"#, vec!["/thumbnail_width"]),
        (r#"{"title":"M","year":1931,"thumbnail":"javascript:alert(1)"}"#, vec!["/thumbnail"]),
        (r#"{"title":"M","year":1931,"thumbnail":"//example.com/m.jpg"}"#, vec!["/thumbnail"]),
        (
            r#"{"title":"M","year":1,"cast":[1,"",null]}"#,
            vec!["/cast/0", "/cast/1", "/cast/2", "/year"],
        ),
        (r#"{"title":"M","title":"N","year":1931}"#, vec!["/title"]),
        (r#"{"title":"M","year":1931,"href":null,"href":"x"}"#, vec!["/href"]),
        (r#"{"title":"\ud800","year":1931}"#, vec![""]),
        (r#"{"title":"M","year":1e999}"#, vec![""]),
        (r#"{"title":"M","year":1931}}"#, vec![""]),
        ("[]", vec![""]),
        (r#"[["A"],null,[],null,null,null,null,"T",1999]"#, vec![""]),
        ("12", vec![""]),
        ("", vec![""]),
    ] {
        let mut pointers = pointers(json);
        pointers.sort();
        assert_eq!(pointers, expected, "{json}");
    }
}

#[test]
fn text_has_a_greatest_length_in_characters() {
    for (property, is_list, max) in [
        ("title", false, 1000),
        ("cast", true, 1000),
        ("genres", true, 1000),
        ("href", false, 2048),
        ("thumbnail", false, 2048),
        ("extract", false, 20_000),
    ] {
        let movie = |length: usize| {
            let scheme = if property == "thumbnail" { "https://" } else { "" };
            let text = json!(format!("{scheme}{}", "é".repeat(length - scheme.len())));
            let mut movie = json!({ "title": "M", "year": 1931 });
            movie[property] = if is_list { json!([text]) } else { text };
            movie.to_string()
        };
        assert_eq!(faults(&movie(max)), [], "{property}");
        let fault = faults(&movie(max + 1)).remove(0);
        let pointer = format!("/{property}{}", if is_list { "/0" } else { "" });
        let described = (fault.pointer, fault.expected, fault.found);
        let expected = (format!("at most {max} characters"), format!("{} characters", max + 1));
        assert_eq!(described, (pointer, expected.0, expected.1));
    }
}

#[test]
fn faults_describe_expected_and_found() {
    let first_fault = |json: &str| {
        let fault = faults(json).remove(0);
        format!("{}: expected {}, found {}", fault.pointer, fault.expected, fault.found)
    };
    let movie = |rest: &str| first_fault(&format!(r#"{{"title":"M",{rest}}}"#));
    assert_eq!(movie(r#""year":"1931""#), r#"/year: expected integer, found "1931""#);
    assert_eq!(movie(r#""year":1"#), "/year: expected 1870 or more, found 1");
    assert_eq!(
        movie(r#""year":1931,"x":1"#),
        r#"/x: expected a property that the schema knows, found the unknown property "x""#
    );
    assert_eq!(
        movie(r#""year":1931,"href":["a"]"#),
        "/href: expected null or string, found an array of 1 item"
    );
    assert_eq!(
        movie(r#""year":1931,"title":"N""#),
        "/title: expected the property once, found the property more than once"
    );
    assert_eq!(
        movie(r#""year":1931,"genre":[]"#),
        r#"/genre: expected a property that the schema knows (did you mean "genres"?), found the unknown property "genre""#
    );
    assert_eq!(
        movie(r#""year":1931,"cast":["a\u001fb"]"#),
        r#"/cast/0: expected a string without forbidden control characters (pattern ^[^\u0000\u001F]*$), found "a\u001fb""#
    );
    assert_eq!(
        first_fault("{"),
        ": expected JSON, found a record that breaks off in an object at line 1 column 1"
    );
}

#[test]
fn faults_of_what_is_not_json_say_what_to_do() {
    let first = |json: &[u8]| {
        let fault = parse::<Movie>(json).unwrap_err()[0].clone();
        (fault.expected, fault.found)
    };
    let movie = |title: &str| first(format!(r#"{{"title":{title},"year":1931}}"#).as_bytes());
    let pair = "a surrogate pair for a character beyond U+FFFF, or the character itself as UTF-8";
    for (title, found) in [
        (r#""\ud800""#, r"half of a surrogate pair: \ud800, 10 bytes into the record"),
        (r#""a\uDBFFb""#, r"half of a surrogate pair: \uDBFF, 11 bytes into the record"),
        (r#""\udc00""#, r"half of a surrogate pair: \udc00, 10 bytes into the record"),
        (r#""\ud83d\ud83d\ude00""#, r"half of a surrogate pair: \ud83d, 10 bytes into the record"),
        (
            r#""\ud83c\udfac\ud83c\n""#,
            r"half of a surrogate pair: \ud83c, 22 bytes into the record",
        ),
        (r#""\\ud83c\ud83c""#, r"half of a surrogate pair: \ud83c, 17 bytes into the record"),
    ] {
        assert_eq!(movie(title), (pair.to_owned(), found.to_owned()), "{title}");
    }
    let long = format!(r#""{}\ud800""#, "x".repeat(MAX_EXPLAINED));
    assert!(movie(&long).1.starts_with("half of a surrogate pair"), "{:?}", movie(&long));

    for (json, expected, found) in [
        ("\u{feff}{}", "no byte order mark", "a byte order mark (U+FEFF) before the record"),
        ("[]", "a JSON object", "an array"),
        ("12", "a JSON object", "a number"),
        ("\"x\"", "a JSON object", "a string"),
        ("null", "a JSON object", "null"),
        ("NaN", "a JSON object", "other text"),
        (r#"{"title":'M'}"#, "JSON", "no JSON value (a value needs double quotes"),
        (r#"{'title':"M"}"#, "JSON", "a property name without double quotes"),
        (r#"{"title":"M",}"#, "JSON", "a trailing comma"),
        (r#"{"title":"M" "year":1}"#, "JSON", "something other than a comma or }"),
        ("{\"title\":\"a\tb\"}", "JSON", "a control character in a string (write"),
        (r#"{"title":"\x"}"#, "JSON", "an escape that JSON does not have"),
        ("{} x", "JSON", "more text behind the record"),
        (r#"{"title":"M"#, "JSON", "a record that breaks off in a string"),
    ] {
        let (says, saw) = first(json.as_bytes());
        assert!(says.starts_with(expected) && saw.starts_with(found), "{json}: {says}: {saw}");
    }
    let (expected, found) = first(b"{\"title\":\"Am\xe9lie\",\"year\":2001}");
    assert!(expected.starts_with("UTF-8 text: convert"), "{expected}");
    assert_eq!(found, "byte 0xE9, 12 bytes into the record");
}

#[test]
fn fault_locates_the_first_byte_that_is_not_utf_8() {
    let faults = parse::<Movie>(b"{\"title\":\"\xff\",\"year\":1931}").unwrap_err();
    assert_eq!(faults[0].found, "byte 0xFF, 10 bytes into the record");
}

#[test]
fn faults_of_large_records_are_small() {
    let name = "n".repeat(100_000);
    let fault = faults(&format!(r#"{{"title":"M","year":1931,"{name}":1}}"#)).remove(0);
    assert!(fault.pointer.len() < 1000 && fault.found.len() < 1000 && fault.expected.len() < 1000);
    let fault = faults(&format!(r#"{{"title":"M","year":"{name}"}}"#)).remove(0);
    assert!(fault.found.len() < 1000);
}

#[test]
fn keeps_1000_faults_of_a_record_and_counts_the_rest() {
    let json = format!(r#"{{"title":"M","year":1931,"cast":[{}1]}}"#, "1,".repeat(4999));
    let faults = parse::<Movie>(json.as_bytes()).unwrap_err();
    assert_eq!((faults.len(), faults.count()), (1000, 5000));
}

#[test]
fn a_large_record_has_the_one_fault_that_the_type_found() {
    let record = |member: &str| format!(r#"{{"title":"M","year":1931,{member}}}"#);
    let many = |item: &str| format!("[{}1]", format!("{item},").repeat(MAX_EXPLAINED));
    let name = "n".repeat(MAX_EXPLAINED);
    let one = "a valid record (beyond 64 KiB only the first fault is described)";
    for (json, expected, found) in [
        (
            record(&format!(r#""cast":{}"#, many("{}"))),
            one,
            "invalid type: map, expected a string at line 1",
        ),
        (record(&format!(r#""{name}":1"#)), one, "unknown field `nnn"),
        (record(&format!(r#""x":{}"#, many("1"))), one, "unknown field `x`"),
        (format!("{{\"title\":\"{name}"), "JSON", "a record that breaks off in a string at line 1"),
        (many("1"), "a JSON object", "an array"),
    ] {
        assert!(json.len() > MAX_EXPLAINED);
        let faults = parse::<Movie>(json.as_bytes()).unwrap_err();
        assert_eq!((faults.len(), faults.count()), (1, 1));
        let Fault { pointer, expected: says, found: saw } = &faults[0];
        assert_eq!((pointer.as_str(), says.as_str()), ("", expected));
        assert!(saw.starts_with(found) && saw.len() < 1000, "{saw}");
        assert!(!json.starts_with('{') || saw.contains(" at line 1 column "), "{saw}");
    }
    let padding = " ".repeat(MAX_EXPLAINED - record(r#""cast":[1]"#).len());
    let largest = record(&format!(r#""cast":[{padding}1]"#));
    assert_eq!(largest.len(), MAX_EXPLAINED);
    assert_eq!(pointers(&largest), ["/cast/0"]);
}

#[test]
fn rejects_deeply_nested_json() {
    assert_eq!(pointers(&"[".repeat(1_000_000)), [""]);
    let nested =
        format!(r#"{{"title":"M","year":1931,"cast":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(pointers(&nested), [""]);
}

#[test]
fn serializes_what_it_parsed() {
    let json = r#"{"cast":["Peter Lorre"],"extract":"A \"film\".","genres":[],"href":"M_(1931)","thumbnail":"http://t","thumbnail_height":2,"thumbnail_width":1,"title":"M","year":1931}"#;
    let movie: Movie = parse(json.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&movie).unwrap(), json);
}

#[test]
fn notification_requires_only_bucket_and_key() {
    let notification: Notification = parse(
        br#"{"bucket":"b","key":"a/\u00fc +.json","version_id":null,"etag":"e","sequencer":"0A",
            "event_time":"2026-11-01T10:00:00.123Z","size":12}"#,
    )
    .unwrap();
    assert_eq!(&*notification.key, "a/ü +.json");
    for (json, pointer) in [
        (r#"{"bucket":"b"}"#, "/key"),
        (r#"{"bucket":"b","key":""}"#, "/key"),
        (r#"{"bucket":"b","key":"k","event_time":"yesterday"}"#, "/event_time"),
        (r#"{"bucket":"b","key":"k","event_time":"2026-01-01 10:00:00Z"}"#, "/event_time"),
        (r#"{"bucket":"b","key":"k","event_time":"-9999-01-01T00:00:00Z"}"#, "/event_time"),
        (r#"{"bucket":"b","key":"k","size":-1}"#, "/size"),
        (r#"{"bucket":"b","key":"k","event":""}"#, "/event"),
        (r#"{"bucket":"b","key":"k","Key":"k"}"#, "/Key"),
    ] {
        assert_eq!(
            parse::<Notification>(json.as_bytes()).unwrap_err()[0].pointer,
            pointer,
            "{json}"
        );
    }
}

#[test]
fn notification_reports_a_creation_unless_it_says_removed() {
    let notification = |event: &str| {
        let json = format!(r#"{{"bucket":"b","key":"k"{event}}}"#);
        parse::<Notification>(json.as_bytes())
    };
    for (event, is_removal) in [
        ("", false),
        (r#","event":null"#, false),
        (r#","event":"created""#, false),
        (r#","event":"removed""#, true),
    ] {
        assert_eq!(notification(event).unwrap().is_removal(), is_removal, "{event}");
    }
    // An API of an earlier release refuses the property, so creations do not have it.
    let creation = serde_json::to_string(&notification("").unwrap()).unwrap();
    assert_eq!(creation, r#"{"bucket":"b","key":"k"}"#);

    let faults = notification(r#","event":"moved""#).unwrap_err();
    let expected = r#""created" or "removed""#;
    assert_eq!(faults[..], [Fault::new(&["event"], expected, r#""moved""#)]);
}
