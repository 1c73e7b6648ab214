//! The items of every task: what the model reads, and what is looked at afterwards.

use std::ops::Range;

use anyhow::{Context, ensure};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use salient_candle::Loaded;
use salient_lab::corpus::{self, Question, Squad};
use salient_lab::eval::measure::token_span;
use salient_lab::eval::{CONTINUATION, Item, NEEDLE_ANSWER, Placement, QUESTIONS, Settings, Task};
use salient_lab::needle::{self, Haystack};
use salient_lab::{Error, fetch};

use super::super::model::encode;

/// A prompt, what is to follow it, and which of its tokens matter.
pub(super) struct Posed {
    /// The text's own name for the item.
    pub(super) id: String,
    /// What is prefilled.
    pub(super) prompt: Vec<u32>,
    /// What is asked of it: one thing, or several that know nothing of each other.
    pub(super) asked: Vec<Asked>,
    /// Positions of the tokens that the answer follows from, ascending.
    pub(super) marked: Vec<u32>,
}

/// What follows a prompt.
pub(super) struct Asked {
    /// Tokens that are given once the prompt is prefilled; none where the prompt is all.
    pub(super) given: Vec<u32>,
    /// What follows those.
    pub(super) then: Then,
}

/// What follows everything that is given.
pub(super) enum Then {
    /// The model's own words, which should contain these.
    Answer(String),
    /// These tokens, whatever the model would say.
    Forced(Vec<u32>),
}

impl Asked {
    /// Tokens that the prompt's cache has to take.
    pub(super) fn reserve(&self) -> usize {
        let then = match &self.then {
            Then::Answer(_) => NEEDLE_ANSWER,
            Then::Forced(tokens) => tokens.len(),
        };
        self.given.len() + then
    }
}

/// The text of a task, and how items are made of it.
pub(super) struct Source<'a> {
    loaded: &'a Loaded,
    settings: &'a Settings,
    text: Text,
}

enum Text {
    Needle(Haystack),
    /// In the order of the items.
    Hotpotqa(Vec<Question>),
    /// With the questions of every item, in the order of the items.
    Squad(Squad, Vec<Vec<usize>>),
    Continuation(String),
}

impl<'a> Source<'a> {
    pub(super) fn open(
        task: Task,
        loaded: &'a Loaded,
        settings: &'a Settings,
    ) -> anyhow::Result<Self> {
        let path = fetch::resolve(task.asset())?;
        let split = settings.split;
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let text = match task {
            Task::Needle => Text::Needle(Haystack::new(&corpus::essays(path, split)?)?),
            Task::Hotpotqa => {
                let mut questions = corpus::hotpotqa(path, split)?;
                questions.shuffle(&mut random);
                Text::Hotpotqa(questions)
            }
            Task::Squad => {
                let squad = Squad::open(path)?;
                let mut items: Vec<Vec<_>> =
                    squad.by_paragraph(split).into_iter().map(Iterator::collect).collect();
                items.shuffle(&mut random);
                items.iter_mut().for_each(|questions| questions.shuffle(&mut random));
                Text::Squad(squad, items)
            }
            Task::Continuation => Text::Continuation(corpus::essays(path, split)?),
        };
        Ok(Self { loaded, settings, text })
    }

    pub(super) fn pose(&self, item: &Item) -> anyhow::Result<Posed> {
        let length = item.length.unwrap_or_default();
        let placement = item.question.unwrap_or(Placement::Last);
        match &self.text {
            Text::Needle(haystack) => {
                let depth = item.depth.unwrap_or_default();
                self.needle(haystack, length, depth, placement, item.index)
            }
            Text::Hotpotqa(questions) => {
                let question = questions.get(item.index).context("there are fewer questions")?;
                self.questions(std::slice::from_ref(question), placement)
            }
            Text::Squad(squad, items) => self.squad(squad, items, length, placement, item.index),
            Text::Continuation(essays) => self.continuation(essays, length, item.index),
        }
    }

    fn needle(
        &self,
        haystack: &Haystack,
        length: usize,
        depth: f64,
        placement: Placement,
        index: usize,
    ) -> anyhow::Result<Posed> {
        let seed = self.settings.seed.wrapping_mul(1_000_003).wrapping_add(index as u64);
        let ask = |context: &str, question: &str| match placement {
            Placement::First => format!("{}\n{question}\n{context}", needle::INSTRUCTION),
            _ => format!("{}\n{context}\n{question}", needle::INSTRUCTION),
        };
        // RULER begins the answer, so that the number comes at once.
        let whole = |context: &str, question: &str, begun: &str| {
            begin(self.loaded, &ask(context, question), begun)
        };
        // What the question will be does not depend on the length.
        let count =
            |text: &str| self.loaded.tokenizer.encode_more(text).map_or(usize::MAX, |t| t.len());
        let first = haystack.hide(length, depth, seed, count)?;
        let (question, begun) = (&first.question, &first.answer_prefix);
        let hidden = haystack.hide(length, depth, seed, |context| {
            whole(context, question, begun).map_or(usize::MAX, |tokens| tokens.len())
        })?;
        let mut prompt = whole(&hidden.context, question, begun)?;
        let text = ask(&hidden.context, question);
        let at = text.find(&hidden.needle).context("the needle is not in its haystack")?;
        let needle = at..at + hidden.needle.len();
        let marked = self.marked(&prompt, &text, std::slice::from_ref(&needle))?;
        let context = text.len() - question.len();
        let given = self.hold_back(placement, &mut prompt, &text, context)?;
        let id = format!("{begun} {}", hidden.answer);
        let asked = vec![Asked { given, then: Then::Answer(hidden.answer) }];
        Ok(Posed { id, prompt, asked, marked })
    }

    /// A paragraph's first question, or several, among as many distractors as keep the prompt with
    /// the first within `length`. Paragraphs that are longer than that themselves are passed over.
    fn squad(
        &self,
        squad: &Squad,
        items: &[Vec<usize>],
        length: usize,
        placement: Placement,
        index: usize,
    ) -> anyhow::Result<Posed> {
        let seed = self.settings.seed;
        let tokens = |question: &Question| -> anyhow::Result<usize> {
            Ok(begin(self.loaded, &ask(question, placement).text, ANSWER)?.len())
        };
        let mut fitting = 0;
        for questions in items {
            let mut found = tokens(&squad.question(questions[0], 0, seed)?)?;
            if found > length {
                continue;
            }
            if fitting < index {
                fitting += 1;
                continue;
            }
            let mut distractors = 0;
            loop {
                let more = match squad.question(questions[0], distractors + 1, seed) {
                    Ok(asked) => tokens(&asked)?,
                    Err(Error::Invalid(_)) if found * 10 < length * 9 => {
                        return Err(Error::Usage(format!(
                            "--length {length}: squad has text for about {found} tokens a prompt"
                        ))
                        .into());
                    }
                    Err(Error::Invalid(_)) => break,
                    Err(error) => return Err(error.into()),
                };
                if more > length {
                    break;
                }
                (found, distractors) = (more, distractors + 1);
            }
            let most = if placement == Placement::Later { QUESTIONS } else { 1 };
            let asked: Result<Vec<_>, _> = questions
                .iter()
                .take(most)
                .map(|&question| squad.question(question, distractors, seed))
                .collect();
            return self.questions(&asked?, placement);
        }
        let problem = format!("--length {length}: squad has only {fitting} paragraphs so short");
        Err(Error::Usage(problem).into())
    }

    /// Questions on the same paragraphs.
    fn questions(&self, questions: &[Question], placement: Placement) -> anyhow::Result<Posed> {
        let mut posed: Option<Posed> = None;
        for question in questions {
            let Prompted { text, supporting, context } = ask(question, placement);
            let mut prompt = begin(self.loaded, &text, ANSWER)?;
            let answer = usual_answer(self.loaded, question)?;
            let marked = self.marked(&prompt, &text, &supporting)?;
            let given = self.hold_back(placement, &mut prompt, &text, context)?;
            let asked = Asked { given, then: Then::Forced(answer) };
            match &mut posed {
                None => {
                    let id = question.id.clone();
                    posed = Some(Posed { id, prompt, asked: vec![asked], marked });
                }
                Some(posed) => {
                    ensure!(posed.prompt == prompt, "the questions are not on the same text");
                    posed.asked.push(asked);
                }
            }
        }
        posed.context("an item without a question")
    }

    /// A stretch of the essays, from a place that the seed chooses.
    fn continuation(&self, essays: &str, length: usize, index: usize) -> anyhow::Result<Posed> {
        let tokens = length + CONTINUATION;
        if essays.len() < tokens * BYTES_PER_TOKEN {
            let problem = format!("--length {length}: the essays are not so long");
            return Err(Error::Usage(problem).into());
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.seed);
        random.set_stream(index as u64 + 1);
        let (id, mut prompt) = stretch(self.loaded, ("essays", essays), tokens, &mut random)?;
        let then = Then::Forced(prompt.split_off(length));
        let asked = vec![Asked { given: Vec::new(), then }];
        Ok(Posed { id, prompt, asked, marked: Vec::new() })
    }

    /// Takes away what is to be given later: the tokens after the first `context` bytes of `text`,
    /// the text that `prompt` is about.
    fn hold_back(
        &self,
        placement: Placement,
        prompt: &mut Vec<u32>,
        text: &str,
        context: usize,
    ) -> anyhow::Result<Vec<u32>> {
        if placement != Placement::Later {
            return Ok(Vec::new());
        }
        let tokenizer = &self.loaded.tokenizer;
        let offset = self.offset(prompt, text)?;
        let rest = token_span(offset + context..offset + text.len(), prompt.len(), |count| {
            tokenizer.decode(&prompt[..count]).map(|text| text.len())
        })?;
        let rest = prompt.split_off(rest.start);
        let decoded = tokenizer.decode(prompt)?;
        let whole = decoded.len() == offset + context && decoded.ends_with(&text[..context]);
        ensure!(whole, "the tokenizer joins the question to the text before it");
        Ok(rest)
    }

    /// Where `text` lies in what the prompt's tokens decode to.
    fn offset(&self, prompt: &[u32], text: &str) -> anyhow::Result<usize> {
        let decoded = self.loaded.tokenizer.decode(prompt)?;
        decoded.find(text).context("the tokenizer does not give back its text")
    }

    /// The positions of the tokens that hold any of `spans`, ranges of the text that the prompt is
    /// about.
    fn marked(
        &self,
        prompt: &[u32],
        text: &str,
        spans: &[Range<usize>],
    ) -> anyhow::Result<Vec<u32>> {
        let tokenizer = &self.loaded.tokenizer;
        let offset = self.offset(prompt, text)?;
        let mut marked = Vec::new();
        for span in spans {
            let span = span.start + offset..span.end + offset;
            let tokens = token_span(span, prompt.len(), |count| {
                tokenizer.decode(&prompt[..count]).map(|text| text.len())
            })?;
            marked.extend(tokens.map(|token| token as u32));
        }
        marked.sort_unstable();
        marked.dedup();
        Ok(marked)
    }
}

/// English has four to five; what is too much is cut off.
pub(in crate::commands) const BYTES_PER_TOKEN: usize = 8;

/// This many tokens of a text, from a random place, and a name for them. The text must have at
/// least [`BYTES_PER_TOKEN`] bytes for each.
pub(in crate::commands) fn stretch(
    loaded: &Loaded,
    (name, text): (&str, &str),
    tokens: usize,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<(String, Vec<u32>)> {
    let bytes = tokens * BYTES_PER_TOKEN;
    let from = word_start(text, random.random_range(0..=text.len() - bytes));
    let mut to = (from..=text.len().min(from + bytes)).rev();
    let to = to.find(|&at| text.is_char_boundary(at)).unwrap_or(from);
    let mut stretch = loaded.tokenizer.encode(&text[from..to])?;
    if stretch.len() < tokens {
        let found = stretch.len();
        let problem = format!("{name} gave {found} tokens where {tokens} are needed");
        return Err(Error::Invalid(problem).into());
    }
    stretch.truncate(tokens);
    Ok((format!("{name}@{from}"), stretch))
}

/// A question's prompt as evaluations pose it, the question last and the answer begun, and the
/// tokens of the usual answer.
pub(in crate::commands) fn question_last(
    loaded: &Loaded,
    question: &Question,
) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
    let text = ask(question, Placement::Last).text;
    Ok((begin(loaded, &text, ANSWER)?, usual_answer(loaded, question)?))
}

/// The user's turn and the beginning of an answer, so that what follows is the answer and no
/// preamble.
fn begin(loaded: &Loaded, text: &str, answer: &str) -> anyhow::Result<Vec<u32>> {
    let tokenizer = &loaded.tokenizer;
    let mut tokens = encode(loaded, text.to_owned(), false)?;
    let line = if tokenizer.has_chat_template() { "" } else { "\n" };
    tokens.extend(tokenizer.encode_more(&format!("{line}{answer}"))?);
    Ok(tokens)
}

fn usual_answer(loaded: &Loaded, question: &Question) -> anyhow::Result<Vec<u32>> {
    let answer = question.answers.first().context("a question without an answer")?;
    Ok(loaded.tokenizer.encode_more(&format!(" {answer}"))?)
}

/// How answers to questions begin.
const ANSWER: &str = "Answer:";

/// The user's turn.
struct Prompted {
    text: String,
    /// The supporting sentences in it, as ranges of bytes.
    supporting: Vec<Range<usize>>,
    /// Where in it the question begins.
    context: usize,
}

fn ask(question: &Question, placement: Placement) -> Prompted {
    const INSTRUCTION: &str = "Answer the question from the text. Give the answer alone.";
    let asked = format!("Question: {}", question.text);
    let mut text = format!("{INSTRUCTION}\n\n");
    let mut context = text.len();
    if placement == Placement::First {
        text += &format!("{asked}\n\n");
    }
    let mut supporting = Vec::new();
    for (p, paragraph) in question.paragraphs.iter().enumerate() {
        text += &format!("{}\n", paragraph.title);
        for (s, sentence) in paragraph.sentences.iter().enumerate() {
            let start = text.len();
            text += sentence;
            let supports = question.supporting.iter().any(|f| (f.paragraph, f.sentence) == (p, s));
            if supports && !sentence.is_empty() {
                supporting.push(start..text.len());
            }
        }
        text += "\n\n";
    }
    if placement == Placement::First {
        text.truncate(text.trim_end().len());
        // A last sentence may have ended in spaces.
        let end = text.len();
        supporting.iter_mut().for_each(|span| span.end = span.end.min(end));
    } else {
        context = text.len();
        text += &asked;
    }
    Prompted { text, supporting, context }
}

/// The first word that starts at `from` or later.
fn word_start(text: &str, from: usize) -> usize {
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    let starts = text[from..].char_indices().scan(from == 0, |after_space, (at, c)| {
        let starts = *after_space && !c.is_whitespace();
        *after_space = c.is_whitespace();
        Some(starts.then_some(from + at))
    });
    starts.flatten().next().unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use salient_lab::corpus::{Paragraph, Sentence};

    use super::*;

    fn question() -> Question {
        let paragraph = |title: &str, sentences: &[&str]| Paragraph {
            title: title.into(),
            sentences: sentences.iter().map(|sentence| (*sentence).to_owned()).collect(),
        };
        Question {
            id: "q".into(),
            text: "Who?".into(),
            answers: vec!["He".into()],
            paragraphs: vec![paragraph("A", &["One.", " Two."]), paragraph("B", &["Three. "])],
            supporting: [(0, 1), (1, 0)]
                .map(|(paragraph, sentence)| Sentence { paragraph, sentence })
                .into(),
        }
    }

    #[test]
    fn supporting_sentences_are_found_wherever_the_question_stands() {
        let found = |prompted: &Prompted| -> Vec<String> {
            prompted.supporting.iter().map(|span| prompted.text[span.clone()].to_owned()).collect()
        };
        let last = ask(&question(), Placement::Last);
        assert!(last.text.ends_with("Three. \n\nQuestion: Who?"), "{}", last.text);
        assert_eq!(found(&last), [" Two.", "Three. "]);
        let later = ask(&question(), Placement::Later);
        assert_eq!(later.text, last.text);
        assert_eq!(&later.text[later.context..], "Question: Who?");
        let first = ask(&question(), Placement::First);
        assert!(first.text.contains("\n\nQuestion: Who?\n\nA\nOne."), "{}", first.text);
        assert!(first.text[first.context..].starts_with("Question: Who?"));
        assert_eq!(found(&first), [" Two.", "Three."]);
    }

    #[test]
    fn words_start_after_spaces() {
        let text = "añb cd\n ef";
        let starts: Vec<_> = [0, 1, 2, 4, 5, 8, 9].map(|from| word_start(text, from)).into();
        assert_eq!(starts, [0, 5, 5, 5, 9, 9, 9]);
        assert_eq!(word_start(text, text.len()), text.len());
    }
}
