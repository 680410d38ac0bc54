//! A picture of a digit, brought into the form that MNIST has and the model was trained on: 28x28 pixels, bright ink on dark, the ink fitted
//! into 20x20 and placed by its centre of mass; and a way to show it on a terminal.
use std::{
    fmt::Write as _,
    io::{self, Cursor},
    path::{Path, PathBuf},
};

/// Pixels in a row, and rows.
pub const SIDE: usize = 28;

/// The box into which the ink is fitted.
const BOX: usize = 20;

/// Pictures with longer sides are refused: a digit needs no more, and a small file can claim to be a huge picture.
const MAX_SIDE: u32 = 8192;

/// Ink must stand out from the paper by so many of the 255 grey levels.
const MIN_CONTRAST: f32 = 32.0;

/// The bytes that the model takes, row by row, 0 black to 255 white.
pub type Digit = [u8; SIDE * SIDE];

/// Why a file is not a picture of a digit.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It can't be read.
    #[error("{} can't be read: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else.
    #[error("not a PNG file{0}")]
    NotPng(&'static str),
    /// It starts like a PNG file and goes on otherwise.
    #[error("the PNG file is damaged: {0}")]
    Damaged(String),
    /// Too many pixels.
    #[error("{0}x{1} pixels are too many, at most {MAX_SIDE}x{MAX_SIDE}")]
    TooLarge(u32, u32),
    /// All of one brightness.
    #[error("nothing is drawn on it: every pixel is about equally bright")]
    Blank,
}

/// A grey picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// 0 black to 255 white.
    pixels: Vec<f32>,
}

impl Picture {
    /// Reads a PNG file.
    pub fn open(path: &Path) -> Result<Self, PictureError> {
        let bytes = std::fs::read(path).map_err(|error| PictureError::File { path: path.to_owned(), error })?;
        Self::from_png(&bytes)
    }

    /// Decodes the bytes of a PNG file of any colour type. What is transparent is paper: white, or black where the ink is white.
    pub fn from_png(bytes: &[u8]) -> Result<Self, PictureError> {
        if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Err(PictureError::NotPng(match bytes {
                [0xff, 0xd8, 0xff, ..] => "; it is a JPEG, convert it first",
                [b'G', b'I', b'F', ..] => "; it is a GIF, convert it first",
                [] => "; it is empty",
                _ => "",
            }));
        }
        let damaged = |error: png::DecodingError| PictureError::Damaged(error.to_string());
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(damaged)?;
        let (width, height) = (reader.info().width, reader.info().height);
        if width.max(height) > MAX_SIDE {
            return Err(PictureError::TooLarge(width, height));
        }
        let size = reader.output_buffer_size().ok_or(PictureError::TooLarge(width, height))?;
        let mut raw = vec![0; size];
        let info = reader.next_frame(&mut raw).map_err(damaged)?;
        let raw = &raw[..info.buffer_size()];

        let luma = |rgb: &[u8]| 0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2]);
        // Brightness and opacity.
        let grey: Vec<(f32, f32)> = match info.color_type {
            png::ColorType::Grayscale => raw.iter().map(|grey| (f32::from(*grey), 1.0)).collect(),
            png::ColorType::GrayscaleAlpha => {
                raw.chunks_exact(2).map(|p| (f32::from(p[0]), f32::from(p[1]) / 255.0)).collect()
            }
            png::ColorType::Rgb => raw.chunks_exact(3).map(|p| (luma(p), 1.0)).collect(),
            png::ColorType::Rgba => raw.chunks_exact(4).map(|p| (luma(p), f32::from(p[3]) / 255.0)).collect(),
            png::ColorType::Indexed => return Err(PictureError::Damaged("its palette is missing".into())),
        };
        let on = |paper: f32| -> Vec<f32> {
            grey.iter().map(|(grey, opacity)| grey * opacity + paper * (1.0 - opacity)).collect()
        };
        let (width, height) = (width as usize, height as usize);
        let white = Self { width, height, pixels: on(255.0) };
        Ok(if white.contrast() >= MIN_CONTRAST { white } else { Self { width, height, pixels: on(0.0) } })
    }

    fn contrast(&self) -> f32 {
        let (low, high) = range(&self.pixels);
        high - low
    }

    /// The picture as MNIST would have it. One that is as MNIST's are already stays as it is, to the bit.
    pub fn to_digit(&self) -> Result<Digit, PictureError> {
        if self.contrast() < MIN_CONTRAST {
            return Err(PictureError::Blank);
        }
        // The paper is what is along the edges.
        let mut edge: Vec<f32> = (0..self.width * self.height)
            .filter(|i| {
                let (x, y) = (i % self.width, i / self.width);
                x == 0 || y == 0 || x + 1 == self.width || y + 1 == self.height
            })
            .map(|i| self.pixels[i])
            .collect();
        edge.sort_by(f32::total_cmp);
        let mut paper = edge[edge.len() / 2];
        let (low, high) = range(&self.pixels);
        let dark_ink = paper - low > high - paper;
        let mut ink = self.clone();
        if dark_ink {
            ink.pixels.iter_mut().for_each(|pixel| *pixel = 255.0 - *pixel);
            paper = 255.0 - paper;
        }
        if ink.is_like_mnist() {
            return Ok(std::array::from_fn(|i| ink.pixels[i].round() as u8));
        }
        // From nothing on the paper to 255 where the ink is strongest; faint spots are the paper's.
        let strongest = range(&ink.pixels).1 - paper;
        for pixel in &mut ink.pixels {
            let strength = (*pixel - paper) / strongest;
            *pixel = if strength < 0.15 { 0.0 } else { strength * 255.0 };
        }
        let (left, top, right, bottom) = ink.bounds(64.0).ok_or(PictureError::Blank)?;
        let (width, height) = (right - left, bottom - top);
        let scale = BOX as f32 / width.max(height) as f32;
        let size = |length: usize| ((length as f32 * scale).round() as usize).clamp(1, BOX);
        let mut small = ink.resample((left, top, width, height), (size(width), size(height)));
        let brightest = range(&small.pixels).1;
        small.pixels.iter_mut().for_each(|pixel| *pixel *= 255.0 / brightest);

        let (x, y) = small.centre_of_mass();
        let place = |centre: f32, length: usize| {
            (SIDE as f32 / 2.0 - centre).round().clamp(0.0, (SIDE - length) as f32) as usize
        };
        let (left, top) = (place(x, small.width), place(y, small.height));
        let mut digit = [0; SIDE * SIDE];
        for (i, pixel) in small.pixels.iter().enumerate() {
            let (x, y) = (i % small.width, i / small.width);
            digit[(top + y) * SIDE + left + x] = pixel.round().clamp(0.0, 255.0) as u8;
        }
        Ok(digit)
    }

    fn is_like_mnist(&self) -> bool {
        let Some((left, top, right, bottom)) = self.bounds(64.0) else { return false };
        let (x, y) = self.centre_of_mass();
        let centred = |at: f32| (at - SIDE as f32 / 2.0).abs() < 1.5;
        (self.width, self.height) == (SIDE, SIDE)
            && (right - left).max(bottom - top) <= BOX
            && centred(x)
            && centred(y)
            && self.pixels[0] == 0.0
    }

    /// Left, top, right and bottom (exclusive) of what is at least so bright.
    fn bounds(&self, at_least: f32) -> Option<(usize, usize, usize, usize)> {
        let mut found = None;
        for i in (0..self.pixels.len()).filter(|i| self.pixels[*i] >= at_least) {
            let (x, y) = (i % self.width, i / self.width);
            let (left, top, right, bottom) = found.unwrap_or((x, y, x + 1, y + 1));
            found = Some((left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)));
        }
        found
    }

    fn centre_of_mass(&self) -> (f32, f32) {
        let (mut x, mut y, mut mass) = (0.0, 0.0, 0.0);
        for (i, pixel) in self.pixels.iter().enumerate() {
            x += pixel * ((i % self.width) as f32 + 0.5);
            y += pixel * ((i / self.width) as f32 + 0.5);
            mass += pixel;
        }
        (x / mass, y / mass)
    }

    /// A part of the picture in another size: each new pixel is the mean of what it covers.
    fn resample(&self, (left, top, width, height): (usize, usize, usize, usize), to: (usize, usize)) -> Self {
        let covered = |i: usize, from: usize, to: usize| {
            let step = from as f32 / to as f32;
            let (start, end) = (i as f32 * step, (i + 1) as f32 * step);
            let last = (end.ceil() as usize).min(from);
            (start as usize..last).map(move |at| (at, end.min(at as f32 + 1.0) - start.max(at as f32)))
        };
        let mut pixels = Vec::with_capacity(to.0 * to.1);
        for y in 0..to.1 {
            for x in 0..to.0 {
                let (mut sum, mut area) = (0.0, 0.0);
                for (row, tall) in covered(y, height, to.1) {
                    for (column, wide) in covered(x, width, to.0) {
                        sum += self.pixels[(top + row) * self.width + left + column] * tall * wide;
                        area += tall * wide;
                    }
                }
                pixels.push(sum / area);
            }
        }
        Self { width: to.0, height: to.1, pixels }
    }
}

fn range(pixels: &[f32]) -> (f32, f32) {
    pixels.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), pixel| (low.min(*pixel), high.max(*pixel)))
}

/// How a terminal shows grey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shades {
    /// Any colour: two pixels in a character.
    Full,
    /// 24 greys of the 256-colour palette: two pixels in a character.
    Palette,
    /// Letters of different weight, for files and terminals without colour.
    Letters,
}

/// The digit in lines of text, without the empty rows above and below.
pub fn draw(digit: &Digit, shades: Shades) -> Vec<String> {
    let row = |y: usize| &digit[y * SIDE..(y + 1) * SIDE];
    let inked = |y: &usize| row(*y).iter().any(|pixel| *pixel > 40);
    let first = (0..SIDE).find(inked).unwrap_or(0);
    let last = (0..SIDE).rev().find(inked).unwrap_or(SIDE - 1);
    (first..=last)
        .step_by(2)
        .map(|y| {
            let (upper, lower) = (row(y), row((y + 1).min(SIDE - 1)));
            let mut line = String::new();
            for (upper, lower) in upper.iter().zip(lower) {
                // Writing to a String cannot fail.
                let _ = match shades {
                    Shades::Full => {
                        write!(line, "\x1b[38;2;{upper};{upper};{upper};48;2;{lower};{lower};{lower}m\u{2580}")
                    }
                    Shades::Palette => {
                        let grey = |pixel: u8| 232 + u16::from(pixel) * 23 / 255;
                        write!(line, "\x1b[38;5;{};48;5;{}m\u{2580}", grey(*upper), grey(*lower))
                    }
                    Shades::Letters => {
                        const WEIGHTS: &[u8; 10] = b" .:-=+*#%@";
                        let mean = (usize::from(*upper) + usize::from(*lower)) / 2;
                        write!(line, "{}", char::from(WEIGHTS[mean * (WEIGHTS.len() - 1) / 255]))
                    }
                };
            }
            match shades {
                Shades::Letters => line.trim_end().to_owned(),
                _ => line + "\x1b[0m",
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};

    fn png(width: usize, height: usize, color: png::ColorType, pixel: impl Fn(usize, usize) -> Vec<u8>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
        encoder.set_color(color);
        let data: Vec<u8> = (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect();
        encoder.write_header().unwrap().write_image_data(&data).unwrap();
        bytes
    }

    /// An upright stroke, off centre.
    fn stroke(x: usize, y: usize) -> bool {
        (100..120).contains(&x) && (20..180).contains(&y)
    }

    fn digit(bytes: &[u8]) -> Digit {
        Picture::from_png(bytes).unwrap().to_digit().unwrap()
    }

    #[test]
    fn however_it_is_drawn_the_model_sees_the_same() {
        let ink = |on: u8, off: u8| move |x, y| vec![if stroke(x, y) { on } else { off }];
        let expected = digit(&png(200, 300, Grayscale, ink(255, 0)));
        let row = |y: usize| &expected[y * SIDE..(y + 1) * SIDE];
        assert_eq!(row(3), [0; SIDE], "nothing above the box");
        assert_eq!(row(24), [0; SIDE], "nor below");
        assert!(row(4).iter().any(|p| *p > 200) && row(23).iter().any(|p| *p > 200), "twenty rows of ink");
        let mass: usize = (0..SIDE).map(|x| x * usize::from(row(10)[x])).sum::<usize>() * 2;
        let ink_in_row: usize = row(10).iter().map(|p| usize::from(*p)).sum();
        assert!((mass as f32 / ink_in_row as f32 - 27.0).abs() <= 1.0, "in the middle");

        for (name, other) in [
            ("dark on light", png(200, 300, Grayscale, ink(0, 255))),
            ("faint pencil on grey paper", png(200, 300, Grayscale, ink(100, 190))),
            ("colour", png(200, 300, Rgb, |x, y| if stroke(x, y) { vec![0, 0, 0] } else { vec![255, 255, 255] })),
            ("black on transparent", png(200, 300, Rgba, |x, y| vec![0, 0, 0, if stroke(x, y) { 255 } else { 0 }])),
            (
                "white on transparent",
                png(200, 300, GrayscaleAlpha, |x, y| vec![255, if stroke(x, y) { 255 } else { 0 }]),
            ),
        ] {
            let got = digit(&other);
            let apart = got.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(apart <= 1, "{name}: {apart} apart"); // grey levels are rounded to bytes in different places
        }
    }

    #[test]
    fn what_is_like_mnist_already_is_not_touched() {
        let ring = |x: usize, y: usize| {
            let (dx, dy) = (x as f32 - 13.5, y as f32 - 13.5);
            (255.0 - 60.0 * ((dx * dx + dy * dy).sqrt() - 7.0).abs()).clamp(0.0, 255.0) as u8
        };
        let mnist: Digit = std::array::from_fn(|i| ring(i % SIDE, i / SIDE));
        assert_eq!(digit(&png(SIDE, SIDE, Grayscale, |x, y| vec![ring(x, y)])), mnist);
        assert_eq!(digit(&png(SIDE, SIDE, Grayscale, |x, y| vec![255 - ring(x, y)])), mnist, "nor is its negative");
        assert_eq!(digit(&png(SIDE, SIDE, Rgb, |x, y| vec![ring(x, y); 3])), mnist, "nor in three colours");
        // The same ring in a corner is moved.
        let corner = png(40, 40, Grayscale, |x, y| vec![if x < SIDE && y < SIDE { ring(x, y) } else { 0 }]);
        assert_ne!(digit(&corner), mnist);
    }

    #[test]
    fn what_is_no_picture_of_a_digit_is_named() {
        let good = png(200, 300, Grayscale, |x, y| vec![if stroke(x, y) { 255 } else { 0 }]);
        let complaint = |bytes: &[u8]| {
            Picture::from_png(bytes).and_then(|picture| picture.to_digit()).map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(complaint(b""), "not a PNG file; it is empty");
        assert_eq!(complaint(b"hello"), "not a PNG file");
        assert_eq!(complaint(&[0xff, 0xd8, 0xff, 0xe0]), "not a PNG file; it is a JPEG, convert it first");
        for cut in [8, 20, 40, good.len() / 2] {
            assert!(complaint(&good[..cut]).starts_with("the PNG file is damaged: "), "cut at {cut}");
        }
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        assert!(complaint(&flipped).starts_with("the PNG file is damaged: "));
        assert_eq!(complaint(&png(50, 50, Grayscale, |_, _| vec![255])), PictureError::Blank.to_string());
        assert_eq!(
            complaint(&png(50, 50, Grayscale, |x, _| vec![250 + (x % 3) as u8])),
            PictureError::Blank.to_string()
        );
        assert_eq!(
            complaint(&png(9000, 1, Grayscale, |_, _| vec![0])),
            "9000x1 pixels are too many, at most 8192x8192"
        );
        assert_eq!(complaint(&png(1, 1, Grayscale, |_, _| vec![9])), PictureError::Blank.to_string());
        let missing = Picture::open(Path::new("nowhere.png")).unwrap_err().to_string();
        assert!(missing.starts_with("nowhere.png can't be read: "), "{missing}");
    }

    #[test]
    fn any_shape_of_ink_fits() {
        for (width, height) in [(1, 40), (40, 1), (3, 3), (41, 40), (500, 7)] {
            let bytes = png(width + 2, height + 2, Grayscale, |x, y| {
                vec![if (1..=width).contains(&x) && (1..=height).contains(&y) { 200 } else { 10 }]
            });
            assert!(digit(&bytes).contains(&255), "{width}x{height}");
        }
    }

    #[test]
    fn drawn_in_letters_and_in_colours() {
        let bytes = png(200, 300, Grayscale, |x, y| vec![if stroke(x, y) { 255 } else { 0 }]);
        let digit = digit(&bytes);
        let letters = draw(&digit, Shades::Letters);
        assert_eq!(letters.len(), 10);
        assert!(
            letters.iter().all(|line| line.trim_start().starts_with(['@', '%', '+', '*', '#', '='])),
            "{letters:?}"
        );
        for shades in [Shades::Full, Shades::Palette] {
            let lines = draw(&digit, shades);
            assert_eq!(lines.len(), 10);
            for line in lines {
                assert_eq!(line.matches('\u{2580}').count(), SIDE);
                assert!(line.ends_with("\x1b[0m"), "the colours end with the line");
            }
        }
        assert_eq!(draw(&[0; SIDE * SIDE], Shades::Letters).len(), SIDE / 2, "nothing is drawn as nothing");
    }
}
