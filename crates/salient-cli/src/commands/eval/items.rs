//! The items of every task: what the model reads, and what is looked at afterwards.

use std::ops::Range;

use anyhow::Context;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use salient_candle::Loaded;
use salient_cli::corpus::{self, Question, Speech, Split, Squad};
use salient_cli::eval::measure::token_span;
use salient_cli::eval::{CONTINUATION, Item, Settings, Task};
use salient_cli::needle::{self, Haystack};
use salient_cli::{Error, fetch};

use super::super::model::encode;

/// A prompt, what is to follow it, and which of its tokens matter.
pub(super) struct Posed {
    /// The text's own name for the item.
    pub(super) id: String,
    pub(super) prompt: Vec<u32>,
    pub(super) then: Then,
    /// Positions of the tokens that the answer follows from, ascending.
    pub(super) marked: Vec<i32>,
}

/// What follows the prompt.
pub(super) enum Then {
    /// The model's own words, which should contain these.
    Answer(String),
    /// These tokens, whatever the model would say.
    Forced(Vec<u32>),
}

/// The text of a task, and how items are made of it.
pub(super) struct Source<'a> {
    loaded: &'a Loaded,
    settings: &'a Settings,
    text: Text,
}

enum Text {
    Needle(Haystack),
    Hotpotqa(Vec<Question>),
    /// With the questions in the order of the items.
    Squad(Squad, Vec<usize>),
    /// In the order of the items.
    Continuation(Vec<Speech>),
}

impl<'a> Source<'a> {
    pub(super) fn open(
        task: Task,
        loaded: &'a Loaded,
        settings: &'a Settings,
    ) -> anyhow::Result<Self> {
        let path = fetch::resolve(task.asset())?;
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let text = match task {
            Task::Needle => Text::Needle(Haystack::new(&corpus::essays(path)?)?),
            Task::Hotpotqa => {
                let mut questions = corpus::hotpotqa(path, Split::Report)?;
                questions.shuffle(&mut random);
                Text::Hotpotqa(questions)
            }
            Task::Squad => {
                let squad = Squad::open(path)?;
                let mut order: Vec<_> = (0..squad.len()).collect();
                order.shuffle(&mut random);
                Text::Squad(squad, order)
            }
            Task::Continuation => {
                let mut speeches = corpus::speeches(path)?;
                speeches.shuffle(&mut random);
                Text::Continuation(speeches)
            }
        };
        Ok(Self { loaded, settings, text })
    }

    pub(super) fn pose(&self, item: &Item) -> anyhow::Result<Posed> {
        let length = item.length.unwrap_or_default();
        match &self.text {
            Text::Needle(haystack) => {
                self.needle(haystack, length, item.depth.unwrap_or_default(), item.index)
            }
            Text::Hotpotqa(questions) => {
                let question = questions.get(item.index).context("there are fewer questions")?;
                self.question(question)
            }
            Text::Squad(squad, order) => self.squad(squad, order, length, item.index),
            Text::Continuation(speeches) => self.continuation(speeches, length, item.index),
        }
    }

    fn needle(
        &self,
        haystack: &Haystack,
        length: usize,
        depth: f64,
        index: usize,
    ) -> anyhow::Result<Posed> {
        let tokenizer = &self.loaded.tokenizer;
        let seed = self.settings.seed.wrapping_mul(1_000_003).wrapping_add(index as u64);
        let ask = |context: &str, question: &str| {
            format!("{}\n{context}\n{question}", needle::INSTRUCTION)
        };
        let whole = |context: &str, question: &str, begun: &str| -> anyhow::Result<Vec<u32>> {
            let mut tokens = encode(self.loaded, ask(context, question), false)?;
            // RULER begins the answer, so that the number comes at once.
            let space = if tokenizer.has_chat_template() { "" } else { "\n" };
            tokens.extend(tokenizer.encode_more(&format!("{space}{begun}"))?);
            Ok(tokens)
        };
        // What the question will be does not depend on the length.
        let count = |text: &str| tokenizer.encode_more(text).map_or(usize::MAX, |t| t.len());
        let first = haystack.hide(length, depth, seed, count)?;
        let (question, begun) = (&first.question, &first.answer_prefix);
        let hidden = haystack.hide(length, depth, seed, |context| {
            whole(context, question, begun).map_or(usize::MAX, |tokens| tokens.len())
        })?;
        let prompt = whole(&hidden.context, question, begun)?;
        let text = ask(&hidden.context, question);
        let at = text.find(&hidden.needle).context("the needle is not in its haystack")?;
        let needle = at..at + hidden.needle.len();
        let marked = self.marked(&prompt, &text, std::slice::from_ref(&needle))?;
        let id = format!("{begun} {}", hidden.answer);
        Ok(Posed { id, prompt, then: Then::Answer(hidden.answer), marked })
    }

    /// The question among as many distractors as keep the prompt within `length`. Questions whose
    /// own paragraph is longer than that are passed over.
    fn squad(
        &self,
        squad: &Squad,
        order: &[usize],
        length: usize,
        index: usize,
    ) -> anyhow::Result<Posed> {
        let seed = self.settings.seed;
        let mut fitting = 0;
        for &question in order {
            let mut posed = self.question(&squad.question(question, 0, seed)?)?;
            if posed.prompt.len() > length {
                continue;
            }
            if fitting < index {
                fitting += 1;
                continue;
            }
            for distractors in 1.. {
                let asked = match squad.question(question, distractors, seed) {
                    Ok(asked) => asked,
                    Err(Error::Invalid(_)) if posed.prompt.len() * 10 < length * 9 => {
                        let most = posed.prompt.len();
                        return Err(Error::Usage(format!(
                            "--length {length}: squad has text for about {most} tokens a prompt"
                        ))
                        .into());
                    }
                    Err(Error::Invalid(_)) => break,
                    Err(error) => return Err(error.into()),
                };
                let longer = self.question(&asked)?;
                if longer.prompt.len() > length {
                    break;
                }
                posed = longer;
            }
            return Ok(posed);
        }
        let problem = format!("--length {length}: squad has only {fitting} questions so short");
        Err(Error::Usage(problem).into())
    }

    fn question(&self, question: &Question) -> anyhow::Result<Posed> {
        let (text, spans) = ask(question, self.settings.question_first);
        let (prompt, answer) = begun(self.loaded, question, &text)?;
        let marked = self.marked(&prompt, &text, &spans)?;
        Ok(Posed { id: question.id.clone(), prompt, then: Then::Forced(answer), marked })
    }

    /// A stretch of a speech, from a place that the seed chooses.
    fn continuation(
        &self,
        speeches: &[Speech],
        length: usize,
        index: usize,
    ) -> anyhow::Result<Posed> {
        let tokens = length + CONTINUATION;
        let bytes = tokens * BYTES_PER_TOKEN;
        let long: Vec<_> = speeches.iter().filter(|speech| speech.text.len() >= bytes).collect();
        if long.is_empty() {
            let problem = format!("--length {length}: no State of the Union message is so long");
            return Err(Error::Usage(problem).into());
        }
        let speech = long[index % long.len()];
        let mut random = ChaCha8Rng::seed_from_u64(self.settings.seed);
        random.set_stream(index as u64 + 1);
        let (id, mut prompt) = stretch(self.loaded, speech, tokens, &mut random)?;
        let follows = prompt.split_off(length);
        Ok(Posed { id, prompt, then: Then::Forced(follows), marked: Vec::new() })
    }

    /// The positions of the tokens that hold any of `spans`, ranges of the text that the prompt is
    /// about.
    fn marked(
        &self,
        prompt: &[u32],
        text: &str,
        spans: &[Range<usize>],
    ) -> anyhow::Result<Vec<i32>> {
        let tokenizer = &self.loaded.tokenizer;
        let decoded = tokenizer.decode(prompt)?;
        let offset = decoded.find(text).context("the tokenizer does not give back its text")?;
        let mut marked = Vec::new();
        for span in spans {
            let span = span.start + offset..span.end + offset;
            let tokens = token_span(span, prompt.len(), |count| {
                tokenizer.decode(&prompt[..count]).map(|text| text.len())
            })?;
            marked.extend(tokens.map(|token| token as i32));
        }
        marked.sort_unstable();
        marked.dedup();
        Ok(marked)
    }
}

/// English has four to five; what is too much is cut off.
pub(in crate::commands) const BYTES_PER_TOKEN: usize = 8;

/// So many tokens of a speech of [`BYTES_PER_TOKEN`] for each, from a random place, and a name for
/// them.
pub(in crate::commands) fn stretch(
    loaded: &Loaded,
    speech: &Speech,
    tokens: usize,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<(String, Vec<u32>)> {
    let (text, bytes) = (&speech.text, tokens * BYTES_PER_TOKEN);
    let from = word_start(text, random.random_range(0..=text.len() - bytes));
    let to = (from..=text.len().min(from + bytes)).rev().find(|&at| text.is_char_boundary(at));
    let mut stretch = loaded.tokenizer.encode(&text[from..to.unwrap_or(from)])?;
    if stretch.len() < tokens {
        let (name, found) = (&speech.name, stretch.len());
        let problem = format!("{name} gave {found} tokens where {tokens} are needed");
        return Err(Error::Invalid(problem).into());
    }
    stretch.truncate(tokens);
    Ok((format!("{}@{from}", speech.name), stretch))
}

/// The tokens of a user's turn and of the beginning of an answer, so that what follows is the answer
/// and no preamble; and the tokens of the usual answer.
pub(in crate::commands) fn begun(
    loaded: &Loaded,
    question: &Question,
    text: &str,
) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
    let tokenizer = &loaded.tokenizer;
    let mut prompt = encode(loaded, text.to_owned(), false)?;
    let line = if tokenizer.has_chat_template() { "" } else { "\n" };
    prompt.extend(tokenizer.encode_more(&format!("{line}Answer:"))?);
    let answer = question.answers.first().context("a question without an answer")?;
    Ok((prompt, tokenizer.encode_more(&format!(" {answer}"))?))
}

/// The user's turn, and where in it the supporting sentences are.
pub(in crate::commands) fn ask(
    question: &Question,
    question_first: bool,
) -> (String, Vec<Range<usize>>) {
    const INSTRUCTION: &str = "Answer the question from the text. Give the answer alone.";
    let asked = format!("Question: {}", question.text);
    let mut text = format!("{INSTRUCTION}\n\n");
    if question_first {
        text += &format!("{asked}\n\n");
    }
    let mut spans = Vec::new();
    for (p, paragraph) in question.paragraphs.iter().enumerate() {
        text += &format!("{}\n", paragraph.title);
        for (s, sentence) in paragraph.sentences.iter().enumerate() {
            let start = text.len();
            text += sentence;
            let supports = question.supporting.iter().any(|f| (f.paragraph, f.sentence) == (p, s));
            if supports && !sentence.is_empty() {
                spans.push(start..text.len());
            }
        }
        text += "\n\n";
    }
    if question_first {
        text.truncate(text.trim_end().len());
        // A last sentence may have ended in spaces.
        let end = text.len();
        spans.iter_mut().for_each(|span| span.end = span.end.min(end));
    } else {
        text += &asked;
    }
    (text, spans)
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
    use salient_cli::corpus::{Paragraph, Sentence};

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
        let (last, spans) = ask(&question(), false);
        assert!(last.ends_with("Three. \n\nQuestion: Who?"), "{last}");
        assert_eq!(
            spans.iter().map(|s| &last[s.clone()]).collect::<Vec<_>>(),
            [" Two.", "Three. "]
        );
        let (first, spans) = ask(&question(), true);
        assert!(first.contains("\n\nQuestion: Who?\n\nA\nOne."), "{first}");
        assert_eq!(
            spans.iter().map(|s| &first[s.clone()]).collect::<Vec<_>>(),
            [" Two.", "Three."]
        );
    }

    #[test]
    fn words_start_after_spaces() {
        let text = "añb cd\n ef";
        let starts: Vec<_> = [0, 1, 2, 4, 5, 8, 9].map(|from| word_start(text, from)).into();
        assert_eq!(starts, [0, 5, 5, 5, 9, 9, 9]);
        assert_eq!(word_start(text, text.len()), text.len());
    }
}
