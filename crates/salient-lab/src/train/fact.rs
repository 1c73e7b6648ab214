//! Facts that stand in no text, for predictors to learn what a reader may come back for.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A sentence, and a question that it alone answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The sentence.
    pub sentence: String,
    /// The question.
    pub question: String,
    /// The answer, in the sentence's own words.
    pub answer: String,
}

impl Fact {
    /// A fact by chance: numbers, names, places and dates of people and things. No form, and no
    /// word of the lists, is that of [`crate::needle`].
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        let form = random.random_range(0..FORMS);
        let mut word = |words: &[&'static str]| *words.choose(random).expect("lists have words");
        let person = format!("{} {}", word(FIRST_NAMES), word(LAST_NAMES));
        let thing = format!("{} {}", word(MATERIALS), word(THINGS));
        let (place, city, month) = (word(PLACES), word(CITIES), word(MONTHS));
        let mut number = |from: u32, to: u32| random.random_range(from..to);
        let (sentence, question, answer) = match form {
            0 => {
                let phone = format!("{}-{}", number(200, 999), number(1000, 10_000));
                let sentence = format!("{person} can be reached by telephone at {phone}.");
                (sentence, format!("What is the telephone number of {person}?"), phone)
            }
            1 => {
                let price = format!("{} dollars", number(11, 90_000));
                let sentence = format!("The {thing} was sold for {price}.");
                (sentence, format!("For how much was the {thing} sold?"), price)
            }
            2 => {
                let sentence = format!("{person} left the {thing} in the {place}.");
                (
                    sentence,
                    format!("Where did {person} leave the {thing}?"),
                    format!("In the {place}"),
                )
            }
            3 => {
                let sentence = format!("{person} moved to {city} in {}.", number(1700, 2030));
                (sentence, format!("To which city did {person} move?"), city.to_owned())
            }
            4 => {
                let date = format!("{month} {}", number(1, 29));
                let sentence = format!("The {thing} is to be delivered on {date}.");
                (sentence, format!("When is the {thing} to be delivered?"), date)
            }
            5 => {
                let password = format!("{}{}", month.to_lowercase(), number(100, 10_000));
                let sentence = format!("To open the {thing}, the password is {password}.");
                (sentence, format!("What is the password for the {thing}?"), password)
            }
            6 => {
                let sentence = format!("The owner of the {thing} is {person}.");
                (sentence, format!("Who owns the {thing}?"), person)
            }
            _ => {
                let room = number(100, 4000).to_string();
                let sentence = format!("In {city}, {person} stayed in room {room}.");
                (sentence, format!("In which room did {person} stay?"), room)
            }
        };
        Self { sentence, question, answer }
    }
}

/// The sentences that [`Fact::random`] has.
const FORMS: usize = 8;

const FIRST_NAMES: &[&str] = &[
    "Agnes", "Boris", "Carla", "Dmitri", "Elena", "Felix", "Greta", "Hugo", "Ingrid", "Jonas",
    "Kira", "Leon", "Marta", "Nadia", "Oscar", "Petra", "Ruth", "Stefan", "Tessa", "Viktor",
];
const LAST_NAMES: &[&str] = &[
    "Abbott",
    "Brandt",
    "Castell",
    "Dorsey",
    "Ekman",
    "Farrow",
    "Gruber",
    "Hollis",
    "Ivarsson",
    "Jensen",
    "Keller",
    "Lindqvist",
    "Moreau",
    "Novak",
    "Okafor",
    "Pereira",
    "Quinn",
    "Rossi",
    "Sato",
    "Tanaka",
];
const MATERIALS: &[&str] =
    &["brass", "copper", "glass", "iron", "leather", "oak", "paper", "silver", "stone", "wooden"];
const THINGS: &[&str] = &[
    "barrel", "bicycle", "boat", "cabinet", "chair", "chest", "cupboard", "desk", "flute", "gate",
    "lamp", "piano", "safe", "statue", "table", "trunk", "vault", "wagon",
];
const PLACES: &[&str] = &[
    "attic", "barn", "cellar", "chapel", "corridor", "garage", "kitchen", "library", "office",
    "shed", "station", "workshop",
];
const CITIES: &[&str] = &[
    "Antwerp", "Bergen", "Cairo", "Dublin", "Florence", "Geneva", "Hanoi", "Istanbul", "Krakow",
    "Lisbon", "Montreal", "Nairobi", "Oslo", "Prague", "Quito", "Riga", "Seville", "Tokyo",
    "Utrecht", "Vienna",
];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::needle::Haystack;

    #[test]
    fn sentences_hold_their_answers_and_are_alike_to_no_needle() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let facts: HashSet<String> = (0..400)
            .map(|_| {
                let Fact { sentence, question, answer } = Fact::random(&mut random);
                let said = sentence.to_lowercase();
                assert!(said.contains(&answer.to_lowercase()), "{sentence} {answer}");
                assert!(!question.contains(&answer) && question.ends_with('?'), "{question}");
                assert!(sentence.ends_with('.') && !said.contains("magic"), "{sentence}");
                sentence
            })
            .collect();
        assert!(facts.len() > 380, "{} of 400", facts.len());
        for form in ["telephone", "sold", "left", "moved", "delivered", "password", "owner", "room"]
        {
            assert!(facts.iter().any(|fact| fact.contains(form)), "{form}");
        }

        let hay = Haystack::new(&"Some hay. ".repeat(200)).unwrap();
        for seed in 0..200 {
            let needle = hay.hide(100, 0.0, seed, |text| text.split(' ').count()).unwrap().needle;
            let words: HashSet<&str> = needle.split([' ', '-']).collect();
            for list in [MATERIALS, THINGS, PLACES] {
                assert!(list.iter().all(|word| !words.contains(word)), "{needle}");
            }
        }
    }
}
