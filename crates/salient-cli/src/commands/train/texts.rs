//! The texts of a run, as tokens.

use std::collections::HashSet;
use std::ops::Range;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use salient_candle::Loaded;
use salient_lab::corpus::{self, Paragraph, Question, Speech, Split};
use salient_lab::needle::Haystack;
use salient_lab::train::text_hash;
use salient_lab::train::{Data, Fact, Scored};
use salient_lab::{Error, fetch};
use sha2::{Digest, Sha256};

use super::super::eval::items::{BYTES_PER_TOKEN, question_last, stretch};

/// A text, and which of its tokens marks are taken by.
pub(super) struct Text {
    /// Its name in the corpus.
    pub(super) id: String,
    pub(super) tokens: Vec<u32>,
    pub(super) scored: Range<usize>,
}

impl Text {
    /// A question's prompt, and its answer after it.
    fn answered(
        question: &Question,
        scored: Scored,
        pose: impl Fn(&Question) -> anyhow::Result<(Vec<u32>, Vec<u32>)>,
    ) -> anyhow::Result<Self> {
        let (mut tokens, answer) = pose(question)?;
        let start = match scored {
            Scored::All => 0,
            Scored::Question => asked_from(question, &tokens, pose)?,
            Scored::Answer => tokens.len(),
        };
        tokens.extend(answer);
        Ok(Self { id: question.id.clone(), scored: start..tokens.len(), tokens })
    }
}

/// The texts of a run.
pub(super) struct Texts {
    pub(super) train: Vec<Text>,
    pub(super) held_out: Vec<Text>,
}

impl Texts {
    /// Chooses them by the seed. Which are held out does not depend on how many there are besides.
    pub(super) fn open(loaded: &Loaded, data: &Data) -> anyhow::Result<Self> {
        let mut texts = Self { train: Vec::new(), held_out: Vec::new() };
        for (of_kind, held_out) in [
            (questions(loaded, data)?, data.held_out_questions()),
            (speeches(loaded, data)?, data.held_out_speeches()),
            (facts(loaded, data)?, data.held_out_facts()),
        ] {
            let mut of_kind = of_kind.into_iter();
            texts.held_out.extend(of_kind.by_ref().take(held_out));
            texts.train.extend(of_kind);
        }
        Ok(texts)
    }

    /// All of them, those held out at the end.
    pub(super) fn all(&self) -> impl Iterator<Item = &Text> {
        self.train.iter().chain(&self.held_out)
    }

    /// What tells these texts from others.
    pub(super) fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for (kind, texts) in [("train", &self.train), ("held out", &self.held_out)] {
            hasher.update(kind);
            texts.iter().for_each(|text| hasher.update(text_hash(&text.tokens, &text.scored)));
        }
        base16ct::lower::encode_string(&hasher.finalize())
    }
}

/// HotpotQA questions as `salient eval` poses them, the question last, each with its answer.
fn questions(loaded: &Loaded, data: &Data) -> anyhow::Result<Vec<Text>> {
    let mut texts = Vec::with_capacity(data.questions);
    if data.questions == 0 {
        return Ok(texts);
    }
    let mut questions = corpus::hotpotqa(fetch::resolve("hotpotqa")?, Split::Train)?;
    questions.shuffle(&mut ChaCha8Rng::seed_from_u64(data.seed));
    for (index, question) in questions.iter().enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(data.seed);
        random.set_stream(index as u64 + 1);
        let pose = |question: &Question| question_last(loaded, question);
        let Some(question) = fitted(question, data.tokens, &mut random, pose)? else {
            continue;
        };
        texts.push(Text::answered(&question, data.scored, pose)?);
        if texts.len() == data.questions {
            return Ok(texts);
        }
    }
    let (found, asked, tokens) = (texts.len(), data.questions, data.tokens);
    let problem = format!("{asked} questions: only {found} fit into {tokens} tokens");
    Err(Error::Usage(problem).into())
}

/// Where the question begins in its prompt: prompts that ask something else are the same before.
fn asked_from(
    question: &Question,
    prompt: &[u32],
    pose: impl Fn(&Question) -> anyhow::Result<(Vec<u32>, Vec<u32>)>,
) -> anyhow::Result<usize> {
    let (other, _) = pose(&Question { text: String::new(), ..question.clone() })?;
    Ok(prompt.iter().zip(&other).take_while(|(token, other)| token == other).count())
}

/// The question with as many of its paragraphs as fit: distractors go first, one after another.
/// Nothing if what supports the answer is too long itself.
fn fitted(
    question: &Question,
    tokens: usize,
    random: &mut ChaCha8Rng,
    pose: impl Fn(&Question) -> anyhow::Result<(Vec<u32>, Vec<u32>)>,
) -> anyhow::Result<Option<Question>> {
    let supporting: HashSet<_> = question.supporting.iter().map(|fact| fact.paragraph).collect();
    let mut distractors: Vec<_> =
        (0..question.paragraphs.len()).filter(|index| !supporting.contains(index)).collect();
    distractors.shuffle(random);
    let mut dropped = HashSet::new();
    loop {
        let paragraphs = question.paragraphs.iter().enumerate();
        let left = paragraphs.filter(|(index, _)| !dropped.contains(index));
        let shorter = Question {
            paragraphs: left.map(|(_, paragraph)| paragraph.clone()).collect(),
            supporting: Vec::new(),
            ..question.clone()
        };
        let (prompt, answer) = pose(&shorter)?;
        if prompt.len() + answer.len() <= tokens {
            return Ok(Some(shorter));
        }
        match distractors.pop() {
            Some(distractor) => dropped.insert(distractor),
            None => return Ok(None),
        };
    }
}

/// State of the Union messages that are long enough, those for texts that are held out first:
/// `count` of them, in turns. None that is held out is of a message that others are of.
fn messages(data: &Data, count: usize, held_out: usize) -> anyhow::Result<Vec<Speech>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut speeches = corpus::speeches(fetch::resolve("sotu")?)?;
    speeches.retain(|speech| speech.text.len() >= data.tokens * BYTES_PER_TOKEN);
    speeches.shuffle(&mut ChaCha8Rng::seed_from_u64(data.seed));
    if speeches.len() < 2 {
        let tokens = data.tokens;
        let problem = format!("texts of {tokens} tokens: no two speeches are so long");
        return Err(Error::Usage(problem).into());
    }
    let first = data.held_out_speeches().max(data.held_out_facts()).clamp(1, speeches.len() / 2);
    let (first, others) = speeches.split_at(first);
    let chosen = first.iter().cycle().take(held_out).chain(others.iter().cycle());
    Ok(chosen.take(count).cloned().collect())
}

/// Stretches of messages.
fn speeches(loaded: &Loaded, data: &Data) -> anyhow::Result<Vec<Text>> {
    let speeches = messages(data, data.speeches, data.held_out_speeches())?;
    let texts = speeches.iter().enumerate().map(|(index, speech)| {
        let mut random = ChaCha8Rng::seed_from_u64(data.seed);
        random.set_stream(index as u64 + 1);
        let (id, tokens) = stretch(loaded, (&speech.name, &speech.text), data.tokens, &mut random)?;
        Ok(Text { id, scored: 0..tokens.len(), tokens })
    });
    texts.collect()
}

/// Messages in each of which a fact is hidden anywhere, and the question for it.
fn facts(loaded: &Loaded, data: &Data) -> anyhow::Result<Vec<Text>> {
    let pose = |question: &Question| question_last(loaded, question);
    let speeches = messages(data, data.facts, data.held_out_facts())?;
    let texts = speeches.iter().enumerate().map(|(index, speech)| {
        let mut random = ChaCha8Rng::seed_from_u64(data.seed);
        random.set_stream(index as u64 + 1);
        let fact = Fact::random(&mut random);
        let hay = Haystack::new(&speech.text)?;
        let (depth, start) =
            (random.random_range(0.0..=100.0), random.random_range(0..hay.sentences()));
        let ask = |context: &str| Question {
            id: format!("{}:{start}", speech.name),
            text: fact.question.clone(),
            answers: vec![fact.answer.clone()],
            paragraphs: vec![Paragraph {
                title: format!("State of the Union, {}", speech.year),
                sentences: vec![context.to_owned()],
            }],
            supporting: Vec::new(),
        };
        let count = |context: &str| {
            pose(&ask(context)).map_or(usize::MAX, |(prompt, answer)| prompt.len() + answer.len())
        };
        let context = hay.around(&fact.sentence, data.tokens, depth, start, count)?;
        Text::answered(&ask(&context), data.scored, pose)
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use salient_lab::corpus::Sentence;

    use super::*;

    /// Paragraph `i` is `i` ten times.
    fn question() -> Question {
        let paragraph = |index: usize| Paragraph {
            title: String::new(),
            sentences: vec![index.to_string().repeat(10)],
        };
        let sentence = |paragraph| Sentence { paragraph, sentence: 0 };
        Question {
            id: "q".into(),
            text: "?".into(),
            answers: vec!["yes".into()],
            paragraphs: (0..6).map(paragraph).collect(),
            supporting: [1, 4].map(sentence).into(),
        }
    }

    /// The digits as tokens, and one for the answer.
    fn pose(question: &Question) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
        let text: String = question.paragraphs.iter().map(Paragraph::text).collect();
        Ok((text.chars().filter_map(|c| c.to_digit(10)).collect(), vec![9]))
    }

    #[test]
    fn questions_begin_where_prompts_differ() {
        let pose = |question: &Question| {
            let (mut prompt, answer) = pose(question)?;
            prompt.extend(question.text.bytes().map(u32::from).chain([100, 101]));
            Ok((prompt, answer))
        };
        let (prompt, _) = pose(&question()).unwrap();
        assert_eq!(asked_from(&question(), &prompt, pose).unwrap(), 60);
    }

    #[test]
    fn distractors_are_dropped_until_a_question_fits_and_nothing_else() {
        let mut seen = HashSet::new();
        for seed in 0..20 {
            let fit = |tokens| {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let fitted = fitted(&question(), tokens, &mut random, pose).unwrap();
                fitted.map(|question| pose(&question).unwrap())
            };
            assert_eq!(fit(61).unwrap().0.len(), 60);
            let (prompt, answer) = fit(60).unwrap();
            assert_eq!((prompt.len(), answer.len()), (50, 1));
            let (prompt, _) = fit(31).unwrap();
            assert!(prompt.len() == 30 && prompt.is_sorted(), "{prompt:?}");
            assert!(prompt.contains(&1) && prompt.contains(&4), "{prompt:?}");
            seen.extend(prompt.iter().copied().filter(|&p| p != 1 && p != 4));
            assert_eq!(fit(30).unwrap().0, [[1; 10], [4; 10]].concat());
            assert!(fit(20).is_none());
        }
        assert_eq!(seen.len(), 4, "the same distractor stays always");
    }
}
