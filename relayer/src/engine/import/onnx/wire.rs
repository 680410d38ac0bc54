//! Protocol buffers as bytes: fields one after the other, read where they lie.
//!
//! Nothing is allocated for what a file claims, only for what a caller keeps: a message is a range of the file, and so is
//! a tensor in it.

use std::ops::Range;

/// A part of a file that is a message, a text or an array.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    range: Range<usize>,
}

/// What a field holds.
#[derive(Clone, Debug)]
pub(super) enum Field<'a> {
    /// A whole number; signed ones are its two's complement.
    Number(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Eight bytes, which nothing here reads.
    Fixed64,
    /// A message, text, byte string or packed list.
    Bytes(Message<'a>),
}

impl<'a> Message<'a> {
    /// The message that is a whole file.
    pub(super) fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, range: 0..bytes.len() }
    }

    /// Where it lies in the file.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &'a [u8] {
        &self.bytes[self.range.clone()]
    }

    /// It as a text.
    pub(super) fn text(&self) -> Result<String, String> {
        let text = std::str::from_utf8(self.bytes()).map_err(|_| self.fault("a name is not UTF-8"))?;
        Ok(text.to_string())
    }

    /// Calls `each` with the number and the content of every field.
    pub(super) fn fields(&self, mut each: impl FnMut(u32, Field<'a>) -> Result<(), String>) -> Result<(), String> {
        let mut reader = Reader { bytes: self.bytes, at: self.range.start, end: self.range.end };
        while reader.at < reader.end {
            let tag = reader.varint()?;
            let number = u32::try_from(tag >> 3).map_err(|_| self.fault("a field number beyond 32 bits"))?;
            let field = match tag & 7 {
                0 => Field::Number(reader.varint()?),
                1 => reader.take(8).map(|_| Field::Fixed64)?,
                2 => {
                    let length = reader.varint()?;
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    Field::Bytes(Self { bytes: self.bytes, range: reader.take(length)? })
                }
                5 => Field::Fixed32(u32::from_le_bytes(reader.array()?)),
                other => return Err(format!("byte {}: wire type {other}", reader.at)),
            };
            each(number, field)?;
        }
        Ok(())
    }

    /// The elements of a packed list of whole numbers.
    pub(super) fn numbers(&self, mut each: impl FnMut(u64) -> Result<(), String>) -> Result<(), String> {
        let mut reader = Reader { bytes: self.bytes, at: self.range.start, end: self.range.end };
        while reader.at < reader.end {
            each(reader.varint()?)?;
        }
        Ok(())
    }

    fn fault(&self, problem: &str) -> String {
        format!("byte {}: {problem}", self.range.start)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<Range<usize>, String> {
        match self.at.checked_add(length).filter(|&end| end <= self.end) {
            Some(end) => Ok(std::mem::replace(&mut self.at, end)..end),
            None => Err(format!("byte {}: {length} bytes where {} are left", self.at, self.end - self.at)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let range = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("byte {start}: a number of more than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(bytes: &[u8]) -> Result<Vec<(u32, String)>, String> {
        let mut found = Vec::new();
        Message::whole(bytes).fields(|number, field| {
            found.push((
                number,
                match field {
                    Field::Number(n) => n.to_string(),
                    Field::Fixed32(n) => format!("{n:#x}"),
                    Field::Fixed64 => "eight".to_string(),
                    Field::Bytes(message) => message.text()?,
                },
            ));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn every_kind_of_field_is_read() {
        let bytes =
            [&[0x08, 0xac, 0x02, 0x12, 2][..], b"hi", &[0x1d, 1, 0, 0, 0], &[0x21, 2, 0, 0, 0, 0, 0, 0, 0]].concat();
        let expected = [(1, "300"), (2, "hi"), (3, "0x1"), (4, "eight")].map(|(n, text)| (n, text.to_string()));
        assert_eq!(listed(&bytes).unwrap(), expected);
        // Cut anywhere, it is whole fields or an error.
        for cut in 0..bytes.len() {
            match listed(&bytes[..cut]) {
                Ok(fields) => assert_eq!(fields, expected[..fields.len()]),
                Err(error) => assert!(error.starts_with("byte "), "{error}"),
            }
        }
    }

    #[test]
    fn lengths_and_numbers_that_lie_are_refused() {
        assert!(listed(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().contains("are left"));
        assert!(listed(&[&[0x08][..], &[0xff; 11]].concat()).unwrap_err().contains("64 bits"));
        assert!(listed(&[0x0b]).unwrap_err().contains("wire type 3"));
        assert!(listed(&[0x12, 1, 0xff]).unwrap_err().contains("UTF-8"));
    }
}
