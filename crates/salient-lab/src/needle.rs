//! Single needles in a haystack, after RULER (arXiv 2404.06654, task `niah_single_2`): one sentence
//! that names a magic number hidden in essays, and the question for that number.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result};

/// What the reader is told before the text.
pub const INSTRUCTION: &str = "A special magic number is hidden within the following text. Make sure \
                               to memorize it. I will quiz you about the number afterwards.";

/// A text with a needle in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Needle {
    /// The text, needle included.
    pub context: String,
    /// The sentence that was hidden.
    pub needle: String,
    /// What to ask after the text.
    pub question: String,
    /// The beginning of an answer, up to the number, for models that continue text.
    pub answer_prefix: String,
    /// The number.
    pub answer: String,
    /// How far into the text the needle was put, in percent of the sentences.
    pub depth: f64,
}

/// A long text, cut into sentences.
#[derive(Debug, Clone)]
pub struct Haystack {
    sentences: Vec<String>,
}

impl Haystack {
    /// Cuts a text into sentences. Line ends and repeated spaces become single spaces, as in RULER.
    ///
    /// # Errors
    /// When the text has no words.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let sentences: Vec<_> =
            text.unicode_sentences().map(|sentence| sentence.trim().to_owned()).collect();
        if sentences.is_empty() {
            return Err(Error::Invalid("the haystack has no sentences".into()));
        }
        Ok(Self { sentences })
    }

    /// Hides a needle at `depth` percent of as many whole sentences as give a context of at most
    /// `tokens` tokens, as `count_tokens` counts them; one sentence more would exceed it. The seed
    /// chooses the needle and where in the essays the text begins; beyond their end it goes on at
    /// their beginning.
    ///
    /// # Errors
    /// When the depth is not between 0 and 100, the needle alone is too long, or the essays are too
    /// short.
    pub fn hide(
        &self,
        tokens: usize,
        depth: f64,
        seed: u64,
        count_tokens: impl Fn(&str) -> usize,
    ) -> Result<Needle> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let adjective = ADJECTIVES.choose(&mut random).expect("there are adjectives");
        let noun = NOUNS.choose(&mut random).expect("there are nouns");
        let answer = random.random_range(1_000_000..10_000_000_u32).to_string();
        let start = random.random_range(0..self.sentences.len());
        let key = format!("{adjective}-{noun}");
        let needle = format!("One of the special magic numbers for {key} is: {answer}.");

        let context = self.around(&needle, tokens, depth, start, count_tokens)?;
        Ok(Needle {
            context,
            needle,
            question: format!(
                "What is the special magic number for {key} mentioned in the provided text?"
            ),
            answer_prefix: format!(
                "The special magic number for {key} mentioned in the provided text is"
            ),
            answer,
            depth,
        })
    }

    /// `sentence` at `depth` percent of as many whole sentences of the hay as give at most `tokens`
    /// tokens together, as `count_tokens` counts them; one more would exceed it. The hay begins at
    /// its sentence number `start`, and goes on at its beginning beyond its end.
    ///
    /// # Errors
    /// As [`Haystack::hide`].
    ///
    /// # Panics
    /// If there is no sentence number `start`.
    pub fn around(
        &self,
        sentence: &str,
        tokens: usize,
        depth: f64,
        start: usize,
        count_tokens: impl Fn(&str) -> usize,
    ) -> Result<String> {
        assert!(start < self.sentences.len(), "the hay has fewer sentences");
        if !(0.0..=100.0).contains(&depth) {
            return Err(Error::Usage(format!("a depth of {depth}: must be between 0 and 100")));
        }
        let context = |count: usize| {
            let before = (count as f64 * depth / 100.0).round() as usize;
            let hay = |i: usize| self.sentences[(start + i) % self.sentences.len()].as_str();
            let sentences = (0..before).map(hay).chain([sentence]);
            sentences.chain((before..count).map(hay)).collect::<Vec<_>>().join(" ")
        };
        let fits = |count: usize| count_tokens(&context(count)) <= tokens;
        if !fits(0) {
            return Err(Error::Usage(format!("{tokens} tokens are too few for the needle alone")));
        }
        let (mut most, mut too_many) = (0, 1);
        while fits(too_many) {
            if too_many == self.sentences.len() {
                let problem = format!("the haystack has fewer than {tokens} tokens");
                return Err(Error::Usage(problem));
            }
            (most, too_many) = (too_many, (2 * too_many).min(self.sentences.len()));
        }
        while too_many - most > 1 {
            let middle = most.midpoint(too_many);
            if fits(middle) { most = middle } else { too_many = middle }
        }
        Ok(context(most))
    }

    /// How many sentences there are.
    pub fn sentences(&self) -> usize {
        self.sentences.len()
    }
}

const ADJECTIVES: &[&str] = &[
    "amber", "ancient", "brave", "bright", "calm", "clever", "cosmic", "crisp", "curious",
    "daring", "distant", "eager", "early", "famous", "fearless", "gentle", "golden", "graceful",
    "hidden", "humble", "icy", "jolly", "keen", "lively", "lucky", "mellow", "mighty", "noble",
    "patient", "plain", "polite", "proud", "quiet", "rapid", "rustic", "silent", "sturdy",
    "subtle", "tidy", "vivid",
];

const NOUNS: &[&str] = &[
    "anchor", "basket", "beacon", "bridge", "candle", "canyon", "castle", "cedar", "clock",
    "compass", "desert", "engine", "falcon", "feather", "garden", "glacier", "hammer", "harbor",
    "island", "kettle", "ladder", "lantern", "magnet", "marble", "meadow", "mirror", "orchard",
    "otter", "paddle", "pepper", "planet", "quarry", "ribbon", "saddle", "shadow", "signal",
    "thimble", "tunnel", "violin", "window",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn hay() -> Haystack {
        let sentence = |i| format!("Sentence {i} is here,\nwith Mr. 3.14 in it.  ");
        Haystack::new(&(0..400).map(sentence).collect::<String>()).unwrap()
    }

    #[test]
    fn the_context_is_as_long_as_it_can_be() {
        let hay = hay();
        let sentence = hay.sentences.iter().map(|sentence| words(sentence)).max().unwrap();
        for tokens in [10, 11, 50, 333, 1024, 3000] {
            for depth in [0.0, 37.5, 100.0] {
                let needle = hay.hide(tokens, depth, 7, words).unwrap();
                let count = words(&needle.context);
                assert!(count <= tokens && count + sentence > tokens, "{count} for {tokens}");
            }
        }
    }

    #[test]
    fn the_needle_lies_whole_at_its_depth() {
        let hay = hay();
        for (depth, share) in [(0.0, 0.0), (25.0, 0.25), (50.0, 0.5), (100.0, 1.0)] {
            let Needle { context, needle, question, answer, answer_prefix, .. } =
                hay.hide(2000, depth, 3, words).unwrap();
            let at = context.find(&needle).unwrap();
            let before = words(&context[..at]) as f64;
            let all = (words(&context) - words(&needle)) as f64;
            assert!((before / all - share).abs() < 0.01, "{before} of {all} at {depth}");
            assert_eq!(context.matches(&answer).count(), 1);
            assert!(answer.len() == 7 && needle.contains(&answer));
            let key = needle.split(' ').nth(7).unwrap();
            assert!(question.contains(key) && answer_prefix.contains(key));
            let boundary = |end: &str| end.is_empty() || end.trim_end().ends_with('.');
            assert!(boundary(&context[..at]) && context.ends_with('.'));
        }
    }

    #[test]
    fn the_seed_decides() {
        let hay = hay();
        let hide = |seed| hay.hide(500, 50.0, seed, words).unwrap();
        assert_eq!(hide(1), hide(1));
        let different: std::collections::HashSet<_> =
            (0..100).map(|seed| hide(seed).answer).collect();
        assert!(different.len() > 95);
        assert_ne!(hide(1).context[..20], hide(2).context[..20]);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let hay = hay();
        for (tokens, depth) in
            [(9, 50.0), (100_000, 50.0), (500, -1.0), (500, 101.0), (500, f64::NAN)]
        {
            let refused = hay.hide(tokens, depth, 0, words);
            assert!(matches!(refused, Err(Error::Usage(_))), "{tokens} {depth}");
        }
        assert!(matches!(Haystack::new(" \n"), Err(Error::Invalid(_))));
    }
}
