//! Readers of the texts that `salient fetch` brings: questions over paragraphs, essays, speeches.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A question, the paragraphs to read, and what in them answers it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The corpus's own name for it.
    pub id: String,
    /// The question.
    pub text: String,
    /// Answers that count as right, the usual one first, without repetitions.
    pub answers: Vec<String>,
    /// The paragraphs, in the order in which they are to be shown.
    pub paragraphs: Vec<Paragraph>,
    /// The sentences that the answer follows from.
    pub supporting: Vec<Sentence>,
}

/// A paragraph of an article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paragraph {
    /// The article's title.
    pub title: String,
    /// The sentences, with the spaces between them; only one where the corpus marks none.
    pub sentences: Vec<String>,
}

/// A sentence among the paragraphs of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sentence {
    /// The index in [`Question::paragraphs`].
    pub paragraph: usize,
    /// The index in [`Paragraph::sentences`].
    pub sentence: usize,
}

impl Paragraph {
    /// The sentences as one text.
    pub fn text(&self) -> String {
        self.sentences.concat()
    }
}

/// SQuAD v2.0: questions on single paragraphs of Wikipedia.
#[derive(Debug)]
pub struct Squad {
    articles: Vec<squad::Article>,
    answerable: Vec<[usize; 3]>,
}

impl Squad {
    /// Reads `squad.json`.
    ///
    /// # Errors
    /// When the file cannot be read or is not SQuAD.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let squad::File { data: articles } = read_json(path.as_ref())?;
        let mut answerable = Vec::new();
        for (a, article) in articles.iter().enumerate() {
            for (p, paragraph) in article.paragraphs.iter().enumerate() {
                let can = |(_, question): &(usize, &squad::Question)| !question.answers.is_empty();
                let questions = paragraph.qas.iter().enumerate().filter(can);
                answerable.extend(questions.map(|(q, _)| [a, p, q]));
            }
        }
        if answerable.is_empty() {
            return Err(malformed(path.as_ref(), "holds no question with an answer"));
        }
        Ok(Self { articles, answerable })
    }

    /// How many questions have an answer; the others are left out.
    pub fn len(&self) -> usize {
        self.answerable.len()
    }

    /// Never: a file without answers is refused.
    pub fn is_empty(&self) -> bool {
        self.answerable.is_empty()
    }

    /// The questions of every paragraph of a part that has any, by their indices. The parts are
    /// fifths of the paragraphs in a random order that is always the same.
    pub fn by_paragraph(&self, split: Split) -> Vec<Range<usize>> {
        let mut paragraphs = Vec::new();
        let mut start = 0;
        for questions in self.answerable.chunk_by(|a, b| a[..2] == b[..2]) {
            paragraphs.push(start..start + questions.len());
            start += questions.len();
        }
        paragraphs.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
        paragraphs.drain(split.fifths(paragraphs.len())).collect()
    }

    /// Question `index` with its own paragraph at a random place among `distractors` others, each
    /// from another article. The same seed gives the same paragraphs to all questions on one.
    ///
    /// # Errors
    /// When there is no such question, or fewer other articles than distractors.
    pub fn question(&self, index: usize, distractors: usize, seed: u64) -> Result<Question> {
        let Some(&[a, p, q]) = self.answerable.get(index) else {
            let last = self.len() - 1;
            return Err(Error::Invalid(format!("question {index}: SQuAD has 0 to {last}")));
        };
        let mut others: Vec<_> = (0..self.articles.len())
            .filter(|&other| other != a && !self.articles[other].paragraphs.is_empty())
            .collect();
        if distractors > others.len() {
            let most = others.len();
            return Err(Error::Invalid(format!("{distractors} distractors: at most {most}")));
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let same = |other: &&[usize; 3]| other[..2] == [a, p];
        let siblings_before = self.answerable[..index].iter().rev().take_while(same).count();
        random.set_stream((index - siblings_before) as u64);
        let (others, _) = others.partial_shuffle(&mut random, distractors);
        let mut chosen = vec![(a, &self.articles[a].paragraphs[p])];
        for &mut other in others {
            let paragraphs = &self.articles[other].paragraphs;
            chosen.push((other, paragraphs.choose(&mut random).expect("not empty")));
        }
        chosen.shuffle(&mut random);
        let own = chosen.iter().position(|(article, _)| *article == a).expect("it was put there");

        let asked = &self.articles[a].paragraphs[p].qas[q];
        let mut seen = HashSet::new();
        let answers = asked.answers.iter().map(|answer| answer.text.clone());
        let paragraph = |(article, paragraph): &(usize, &squad::Paragraph)| Paragraph {
            title: self.articles[*article].title.clone(),
            sentences: vec![paragraph.context.clone()],
        };
        Ok(Question {
            id: asked.id.clone(),
            text: asked.question.clone(),
            answers: answers.filter(|answer| seen.insert(answer.clone())).collect(),
            paragraphs: chosen.iter().map(paragraph).collect(),
            supporting: vec![Sentence { paragraph: own, sentence: 0 }],
        })
    }
}

/// The parts of a text, so that nothing is reported on what it was trained or chosen on. HotpotQA's
/// questions after these are kept for a blind check and cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To train on: questions 0 to 5999 of HotpotQA, nothing of SQuAD and the essays.
    #[value(skip)]
    Train,
    /// To choose by: questions 6000 to 6349 of HotpotQA, a fifth of SQuAD and of the essays.
    Tune,
    /// To report on: questions 6350 to 6699 of HotpotQA, the rest of SQuAD and of the essays.
    Report,
}

impl Split {
    /// The indices of HotpotQA's questions in the file.
    pub fn range(self) -> Range<usize> {
        match self {
            Self::Train => 0..6000,
            Self::Tune => 6000..6350,
            Self::Report => 6350..6700,
        }
    }

    /// The part of something that nothing trains on.
    fn fifths(self, count: usize) -> Range<usize> {
        match self {
            Self::Train => 0..0,
            Self::Tune => 0..count / 5,
            Self::Report => count / 5..count,
        }
    }
}

/// Reads one part of `hotpotqa.json`: questions over up to ten paragraphs of Wikipedia, with the
/// sentences that support the answer.
///
/// # Errors
/// When the file cannot be read, is not HotpotQA, or ends before the part does.
pub fn hotpotqa(path: impl AsRef<Path>, split: Split) -> Result<Vec<Question>> {
    let path = path.as_ref();
    let mut questions: Vec<hotpotqa::Question> = read_json(path)?;
    let (range, found) = (split.range(), questions.len());
    if found < range.end {
        let needed = range.end;
        let problem = format!("holds {found} questions, but the part asked for ends at {needed}");
        return Err(malformed(path, problem));
    }
    Ok(questions.drain(range).map(hotpotqa::Question::into_question).collect())
}

/// Reads one part of `essays.json`: one long text, cut where a line ends.
///
/// # Errors
/// When the file cannot be read or holds no text.
pub fn essays(path: impl AsRef<Path>, split: Split) -> Result<String> {
    #[derive(Deserialize)]
    struct Essays {
        text: String,
    }
    let Essays { text } = read_json(path.as_ref())?;
    if text.trim().is_empty() {
        return Err(malformed(path.as_ref(), "holds no text"));
    }
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    Ok(lines[split.fifths(lines.len())].concat())
}

/// A State of the Union message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speech {
    /// The file's name without its extension, such as `1981_jimmy_carter_d`.
    pub name: String,
    /// The year.
    pub year: u16,
    /// What was said or sent.
    pub text: String,
}

/// Reads the folder of State of the Union messages, ordered by name, and so by year.
///
/// # Errors
/// When the folder or a file cannot be read, or there is no speech in it.
pub fn speeches(folder: impl AsRef<Path>) -> Result<Vec<Speech>> {
    let folder = folder.as_ref();
    let mut speeches = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let year = name.split('_').next().and_then(|year| year.parse().ok());
        if let Some(year) = year.filter(|_| path.extension().is_some_and(|end| end == "txt")) {
            let text = fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
            speeches.push(Speech { name: name.into(), year, text });
        }
    }
    if speeches.is_empty() {
        return Err(malformed(folder, "holds no file such as 1981_jimmy_carter_d.txt"));
    }
    speeches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(speeches)
}

/// The shape of `squad.json`.
mod squad {
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct File {
        pub(super) data: Vec<Article>,
    }

    #[derive(Debug, Deserialize)]
    pub(super) struct Article {
        pub(super) title: String,
        pub(super) paragraphs: Vec<Paragraph>,
    }

    #[derive(Debug, Deserialize)]
    pub(super) struct Paragraph {
        pub(super) context: String,
        pub(super) qas: Vec<Question>,
    }

    #[derive(Debug, Deserialize)]
    pub(super) struct Question {
        pub(super) id: String,
        pub(super) question: String,
        pub(super) answers: Vec<Answer>,
    }

    #[derive(Debug, Deserialize)]
    pub(super) struct Answer {
        pub(super) text: String,
    }
}

/// The shape of `hotpotqa.json`.
mod hotpotqa {
    use serde::Deserialize;

    use super::{Paragraph, Sentence};

    #[derive(Deserialize)]
    pub(super) struct Question {
        #[serde(rename = "_id")]
        id: String,
        question: String,
        answer: String,
        supporting_facts: Vec<(String, usize)>,
        context: Vec<(String, Vec<String>)>,
    }

    impl Question {
        /// Facts that name a sentence which is not there are dropped: the corpus has one.
        pub(super) fn into_question(self) -> super::Question {
            let paragraph = |(title, sentences)| Paragraph { title, sentences };
            let paragraphs: Vec<_> = self.context.into_iter().map(paragraph).collect();
            let supporting = self.supporting_facts.iter().filter_map(|(title, sentence)| {
                let paragraph =
                    paragraphs.iter().position(|paragraph| paragraph.title == *title)?;
                let sentence = *sentence;
                (sentence < paragraphs[paragraph].sentences.len())
                    .then_some(Sentence { paragraph, sentence })
            });
            super::Question {
                id: self.id,
                text: self.question,
                answers: vec![self.answer],
                supporting: supporting.collect(),
                paragraphs,
            }
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let kind = if e.is_eof() { "is cut short" } else { "does not hold what it should" };
        malformed(path, format!("{kind}: {e}"))
    })
}

fn malformed(path: &Path, problem: impl Into<String>) -> Error {
    Error::Malformed { path: path.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn written(text: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus.json");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn small_squad() -> String {
        let article = |title: &str| {
            let asked = json!({"id": title, "question": format!("{title}?"), "is_impossible": false,
                "answers": [{"text": "a"}, {"text": "b"}, {"text": "a"}]});
            let unanswerable =
                json!({"id": "no", "question": "no?", "is_impossible": true, "answers": []});
            json!({"title": title, "paragraphs": [
                {"context": format!("{title} one"), "qas": [unanswerable, asked]},
                {"context": format!("{title} two"), "qas": []},
            ]})
        };
        let articles: Vec<_> = ["x", "y", "z", "w"].map(article).into();
        json!({"version": "v2.0", "data": articles}).to_string()
    }

    #[test]
    fn squad_questions_come_with_their_paragraph_and_others() {
        let (_folder, path) = written(&small_squad());
        let squad = Squad::open(path).unwrap();
        assert_eq!(squad.len(), 4);
        let mut places = HashSet::new();
        for seed in 0..32 {
            let question = squad.question(1, 3, seed).unwrap();
            assert_eq!((question.text.as_str(), question.answers.len()), ("y?", 2));
            let titles: HashSet<_> = question.paragraphs.iter().map(|p| &p.title).collect();
            assert_eq!(titles.len(), 4);
            let [Sentence { paragraph, sentence: 0 }] = question.supporting[..] else { panic!() };
            assert_eq!(question.paragraphs[paragraph].text(), "y one");
            places.insert(paragraph);
            assert_eq!(question, squad.question(1, 3, seed).unwrap());
        }
        assert_eq!(places.len(), 4);
        assert!(matches!(squad.question(1, 4, 0), Err(Error::Invalid(_))));
        assert!(matches!(squad.question(4, 0, 0), Err(Error::Invalid(_))));
        assert_eq!(squad.question(0, 0, 0).unwrap().paragraphs.len(), 1);
    }

    #[test]
    fn hotpotqa_parts_do_not_overlap_and_end_before_the_blind_questions() {
        let question = |index: usize| {
            json!({"_id": index.to_string(), "question": "?", "answer": "yes", "level": "hard",
                "context": [["A", ["One.", " Two."]], ["B", ["Three."]]],
                "supporting_facts": [["B", 0], ["A", 1], ["A", 2], ["C", 0]]})
        };
        let text = json!((0..6400).map(question).collect::<Vec<_>>()).to_string();
        let (_folder, path) = written(&text);
        let train = hotpotqa(&path, Split::Train).unwrap();
        assert_eq!((train.len(), train[5999].id.as_str()), (6000, "5999"));
        let facts = [(1, 0), (0, 1)];
        let facts = facts.map(|(paragraph, sentence)| Sentence { paragraph, sentence });
        assert_eq!(train[0].supporting, facts);
        assert_eq!(train[0].paragraphs[0].text(), "One. Two.");
        assert_eq!(hotpotqa(&path, Split::Tune).unwrap()[0].id, "6000");
        assert!(matches!(hotpotqa(&path, Split::Report), Err(Error::Malformed { .. })));
        assert_eq!(Split::Train.range().end, Split::Tune.range().start);
        assert_eq!(Split::Tune.range().end, Split::Report.range().start);
        assert_eq!(Split::Report.range().end, 6700);
    }

    #[test]
    fn questions_on_one_paragraph_share_their_distractors_and_their_part() {
        let context = |at: usize| format!("c{}", at / 10);
        let asked =
            |at: usize| json!({"id": "", "question": "?", "answers": [{"text": at.to_string()}]});
        let paragraph = |p: usize| json!({"context": context(10 * p), "qas": (0..p % 4).map(|q| asked(10 * p + q)).collect::<Vec<_>>()});
        let article = |a: usize| {
            let paragraphs: Vec<_> = (8 * a..8 * a + 8).map(paragraph).collect();
            json!({"title": a.to_string(), "paragraphs": paragraphs})
        };
        let text = json!({"data": (0..5).map(article).collect::<Vec<_>>()}).to_string();
        let (_folder, path) = written(&text);
        let squad = Squad::open(path).unwrap();
        let [tune, report] = [Split::Tune, Split::Report].map(|split| squad.by_paragraph(split));
        assert_eq!((tune.len(), report.len()), (6, 24));
        let mut all: Vec<_> = tune.into_iter().chain(report).collect();
        for questions in &all {
            let asked: Vec<_> =
                questions.clone().map(|index| squad.question(index, 3, 5).unwrap()).collect();
            assert!(asked.iter().all(|question| question.paragraphs == asked[0].paragraphs));
            let own = asked[0].paragraphs[asked[0].supporting[0].paragraph].text();
            assert!(asked.iter().all(|q| context(q.answers[0].parse().unwrap()) == own));
        }
        // Every question is in one part once.
        all.sort_by_key(|questions| questions.start);
        assert!(all.is_sorted_by(|a, b| a.end == b.start));
        assert_eq!((all[0].start, all[29].end), (0, squad.len()));
    }

    #[test]
    fn the_parts_of_the_essays_do_not_overlap_and_are_all() {
        let whole: String = (0..57).map(|line| format!("line {line}\n")).collect();
        let (_folder, path) = written(&json!({"text": whole}).to_string());
        let [train, tune, report] =
            [Split::Train, Split::Tune, Split::Report].map(|split| essays(&path, split).unwrap());
        assert_eq!((train.as_str(), tune.lines().count()), ("", 11));
        assert_eq!(tune + &report, whole);
    }

    #[test]
    fn cut_and_corrupt_files_are_told_apart() {
        let squad = small_squad();
        let (_folder, path) = written(&squad[..squad.len() / 2]);
        let message = Squad::open(&path).unwrap_err().to_string();
        assert!(message.contains("corpus.json: is cut short"), "{message}");
        for text in ["{\"data\": 3}", "{\"data\": []}", "[1]", "nonsense"] {
            let (_folder, path) = written(text);
            assert!(matches!(Squad::open(&path), Err(Error::Malformed { .. })), "{text}");
            assert!(matches!(essays(&path, Split::Report), Err(Error::Malformed { .. })), "{text}");
            assert!(matches!(hotpotqa(&path, Split::Tune), Err(Error::Malformed { .. })), "{text}");
        }
        assert!(matches!(essays("/no/such/file", Split::Report), Err(Error::Read { .. })));
    }

    #[test]
    fn speeches_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(speeches(folder.path()), Err(Error::Malformed { .. })));
        for name in ["1981_b.txt", "1790_a.txt", "README.txt", "1800_c.json"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let speeches = speeches(folder.path()).unwrap();
        let years: Vec<_> = speeches.iter().map(|speech| speech.year).collect();
        assert_eq!(years, [1790, 1981]);
        assert_eq!(
            (speeches[0].name.as_str(), speeches[0].text.as_str()),
            ("1790_a", "1790_a.txt")
        );
    }
}
