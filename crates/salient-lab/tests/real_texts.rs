//! The readers on the published files, where these are in the cache.

use std::path::PathBuf;

use salient_lab::corpus::{self, Split, Squad};
use salient_lab::fetch;
use salient_lab::needle::Haystack;

/// The asset, or nothing if it was not fetched, which is said, or a failure where it must be there.
fn asset(name: &str) -> Option<PathBuf> {
    match fetch::resolve(name) {
        Ok(path) => Some(path),
        Err(error) => {
            let required = std::env::var_os("SALIENT_REQUIRE_MODEL").is_some();
            assert!(!required, "{error}");
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

#[test]
fn squad_holds_what_was_published() {
    let Some(path) = asset("squad") else { return };
    let squad = Squad::open(path).unwrap();
    assert_eq!(squad.len(), 5928);
    for index in (0..squad.len()).step_by(97) {
        let question = squad.question(index, 9, 1).unwrap();
        assert_eq!(question.paragraphs.len(), 10);
        let own = question.paragraphs[question.supporting[0].paragraph].text();
        assert!(question.answers.iter().all(|answer| own.contains(answer)), "{question:?}");
    }
}

#[test]
fn hotpotqa_holds_what_was_published() {
    let Some(path) = asset("hotpotqa") else { return };
    let questions = corpus::hotpotqa(path, Split::Report).unwrap();
    assert_eq!(questions.len(), 350);
    for question in &questions {
        assert!((2..=10).contains(&question.paragraphs.len()));
        let titles = question.supporting.iter().map(|fact| fact.paragraph);
        assert_eq!(titles.collect::<std::collections::HashSet<_>>().len(), 2, "{}", question.id);
    }
}

#[test]
fn essays_make_haystacks_of_any_length() {
    let Some(path) = asset("essays") else { return };
    // About four letters a token.
    let tokens = |text: &str| text.len() / 4;
    for split in [Split::Tune, Split::Report] {
        let hay = Haystack::new(&corpus::essays(&path, split).unwrap()).unwrap();
        for (seed, length) in [512, 1024, 8000, 100_000].into_iter().enumerate() {
            let needle = hay.hide(length, 50.0, seed as u64, tokens).unwrap();
            let reached = tokens(&needle.context);
            assert!(reached <= length && reached + 300 > length, "{reached} of {length}");
        }
    }
}

#[test]
fn speeches_hold_the_golden_text() {
    let Some(path) = asset("sotu") else { return };
    let speeches = corpus::speeches(path).unwrap();
    assert_eq!(speeches.len(), 233);
    let carter = speeches.iter().find(|speech| speech.name == "1981_jimmy_carter_d").unwrap();
    assert_eq!((carter.year, carter.text.len()), (1981, 217_084));
}
