//! A text to measure language models on, and its tokens.
//!
//! A model's vocabulary holds the bytes of each token, and that is enough to encode with: byte-pair vocabularies number
//! their tokens in the order in which the pairs were merged, so the pair to merge next is the one whose token has the lowest
//! id. Words are cut off the text first, as the tokenisers of these families cut plain prose. The tokens are those of
//! SmolLM2's own tokeniser, and 22 of 3192 are not those of Qwen2.5's, which joins some marks to the word that follows; every
//! version of a model is measured on the same ones.

use std::collections::HashMap;

/// The first chapter of a novel in the public domain; where it comes from is in `relayer/models/text/README.md`.
const CHAPTER: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/text/tom_sawyer.txt"));

/// The chapter as one paragraph: tokenisers agree about words, not about line ends.
pub(super) fn text() -> String {
    CHAPTER.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// The tokens of a text in a vocabulary of pairs that were merged, or `None` if it has a byte that is no token.
pub fn encode(vocabulary: &[Vec<u8>], text: &str) -> Option<Vec<u32>> {
    let mut ids: HashMap<&[u8], u32> = HashMap::with_capacity(vocabulary.len());
    for (id, entry) in (0u32..).zip(vocabulary) {
        if !entry.is_empty() {
            ids.entry(entry).or_insert(id);
        }
    }
    let mut tokens = Vec::new();
    for word in words(text) {
        merge(&ids, word.as_bytes(), &mut tokens)?;
    }
    Some(tokens)
}

/// Appends the tokens of one word.
fn merge(ids: &HashMap<&[u8], u32>, word: &[u8], tokens: &mut Vec<u32>) -> Option<()> {
    // Where the pieces end.
    let mut ends: Vec<usize> = (1..=word.len()).collect();
    let piece = |ends: &[usize], from: usize, to: usize| {
        let start = if from == 0 { 0 } else { ends[from - 1] };
        ids.get(&word[start..ends[to]]).copied()
    };
    loop {
        let pairs = (1..ends.len()).filter_map(|second| Some((piece(&ends, second - 1, second)?, second)));
        let Some((_, second)) = pairs.min() else { break };
        ends.remove(second - 1);
    }
    for last in 0..ends.len() {
        tokens.push(piece(&ends, last, last)?);
    }
    Some(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Mark,
}

impl Class {
    fn of(c: char) -> Self {
        match c {
            c if c.is_alphabetic() => Self::Letter,
            c if c.is_numeric() => Self::Digit,
            c if c.is_whitespace() => Self::Space,
            _ => Self::Mark,
        }
    }
}

/// A text in words: letters or marks with the space before them, endings after an apostrophe, single digits.
fn words(text: &str) -> Vec<&str> {
    const ENDINGS: [&str; 7] = ["'re", "'ve", "'ll", "'s", "'t", "'m", "'d"];
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let space = usize::from(first == ' ');
        let ending = ENDINGS.iter().find(|ending| rest.starts_with(**ending));
        let length = match (ending, rest[space..].chars().next().map(Class::of)) {
            (Some(ending), _) => ending.len(),
            (_, Some(class @ (Class::Letter | Class::Mark))) => {
                rest[space..].find(|c| Class::of(c) != class).map_or(rest.len(), |end| space + end)
            }
            _ => first.len_utf8(),
        };
        let (word, after) = rest.split_at(length);
        words.push(word);
        rest = after;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_tokenisers_cut_them() {
        let cut = words("He said: \"don't--I'll go\" at 10 \u{e9}t\u{e9}.");
        assert_eq!(
            cut,
            [
                "He",
                " said",
                ":",
                " \"",
                "don",
                "'t",
                "--",
                "I",
                "'ll",
                " go",
                "\"",
                " at",
                " ",
                "1",
                "0",
                " \u{e9}t\u{e9}",
                "."
            ]
        );
        assert_eq!(words(&text()).concat(), text());
        assert_eq!(words(" ").concat(), " ");
    }

    #[test]
    fn the_lowest_id_is_merged_first() {
        let vocabulary: Vec<Vec<u8>> =
            ["a", "b", "c", "", "bc", "ab", "abc", "ab"].iter().map(|token| token.as_bytes().to_vec()).collect();
        assert_eq!(encode(&vocabulary, "abc"), Some(vec![6]), "bc first, and then a with it");
        assert_eq!(encode(&vocabulary, "ababc"), Some(vec![5, 6]));
        assert_eq!(encode(&vocabulary, "abd"), None);
        assert_eq!(encode(&vocabulary, ""), Some(vec![]));
    }
}
