//! A text to measure language models on, and its tokens.
//!
//! A model's vocabulary holds the bytes of each token, and that is enough to encode with: byte-pair vocabularies number
//! their tokens in the order in which the pairs were merged, so the pair to merge next is the one whose token has the lowest
//! id. Words are cut off the text first, much as the tokenisers of these families cut it. Where they cut otherwise (runs of
//! line ends, marks and spaces) a few tokens differ from theirs; every version of a model is measured on the same ones.

use std::collections::HashMap;

/// The first chapter of a novel in the public domain; where it comes from is in `relayer/models/text/README.md`.
pub(super) const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/text/tom_sawyer.txt"));

/// The tokens of a text, or `None` if it has a byte that is no token.
pub(super) fn encode(vocabulary: &[Vec<u8>], text: &str) -> Option<Vec<u32>> {
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
    LineEnd,
    Space,
    Mark,
}

impl Class {
    fn of(c: char) -> Self {
        match c {
            '\n' | '\r' => Self::LineEnd,
            c if c.is_alphabetic() => Self::Letter,
            c if c.is_numeric() => Self::Digit,
            c if c.is_whitespace() => Self::Space,
            _ => Self::Mark,
        }
    }
}

/// A text in words: letters or marks with the space before them, endings after an apostrophe, single digits, line ends.
fn words(text: &str) -> Vec<&str> {
    const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    let mut words = Vec::new();
    let mut rest = text;
    let class = |at: usize, rest: &str| rest[at..].chars().next().map(Class::of);
    let run = |rest: &str, of: Class| rest.find(|c| Class::of(c) != of).unwrap_or(rest.len());
    while let Some(first) = class(0, rest) {
        let space = usize::from(rest.starts_with(' '));
        let ending = ENDINGS.iter().filter(|ending| rest.starts_with(**ending)).map(|ending| ending.len()).max();
        let length = match (ending, first, class(space, rest)) {
            (Some(length), ..) => length,
            (_, _, Some(of @ (Class::Letter | Class::Mark))) => space + run(&rest[space..], of),
            (_, Class::Digit, _) => rest.chars().next().map_or(1, char::len_utf8),
            // Of several spaces the last goes with the word that follows.
            (_, Class::Space, _) => {
                let length = run(rest, Class::Space);
                let last = rest[..length].chars().next_back().map_or(0, char::len_utf8);
                let joins = matches!(class(length, rest), Some(Class::Letter | Class::Mark)) && length > last;
                if joins { length - last } else { length }
            }
            (_, of, _) => run(rest, of),
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
        let cut = words("He said:  \"don't--I'll go\"\n\nat 10 \n");
        assert_eq!(
            cut,
            [
                "He", " said", ":", " ", " \"", "don", "'t", "--", "I", "'ll", " go", "\"", "\n\n", "at", " ", "1",
                "0", " ", "\n"
            ]
        );
        assert_eq!(words(TEXT).concat(), TEXT);
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
