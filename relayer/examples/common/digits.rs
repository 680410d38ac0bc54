//! MNIST: the files, the augmentation, the held-out sample in the repository, and sample pictures.

use super::random::Random;
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

pub(crate) const SIDE: usize = 28;
pub(crate) const PIXELS: usize = SIDE * SIDE;

/// A digit, ink bright on dark, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digit {
    pub(crate) pixels: Vec<u8>,
    pub(crate) label: u8,
}

/// `train` or `t10k`, from the folder with the data.
pub(crate) fn load(data: &Path, part: &str) -> Result<Vec<Digit>> {
    let images = super::dataset::read(data, &format!("mnist/{part}-images-idx3-ubyte"))?;
    let labels = super::dataset::read(data, &format!("mnist/{part}-labels-idx1-ubyte"))?;
    // Headers of 16 and 8 bytes: magic number, then the dimensions, which the checksums vouch for.
    let digits: Vec<Digit> = images[16..]
        .chunks_exact(PIXELS)
        .zip(&labels[8..])
        .map(|(pixels, label)| Digit { pixels: pixels.to_vec(), label: *label })
        .collect();
    ensure!(digits.len() == labels.len() - 8, "{part}: {} images, {} labels", digits.len(), labels.len() - 8);
    Ok(digits)
}

/// `heldout.bin`: records of 785 bytes, the label (0 to 9) and then the image.
pub(crate) fn to_records(digits: &[Digit]) -> Vec<u8> {
    digits.iter().flat_map(|digit| std::iter::once(digit.label).chain(digit.pixels.iter().copied())).collect()
}

pub(crate) fn read_records(path: &Path) -> Result<Vec<Digit>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() % (PIXELS + 1) == 0, "{} is not made of records of {} bytes", path.display(), PIXELS + 1);
    Ok(bytes.chunks_exact(PIXELS + 1).map(|record| Digit { pixels: record[1..].to_vec(), label: record[0] }).collect())
}

/// A randomly turned, scaled and shifted copy, so that a digit drawn a little off is still recognised.
pub(crate) fn augmented(pixels: &[u8], random: &mut Random) -> Vec<u8> {
    let angle = random.between(-0.2, 0.2);
    let zoom = random.between(0.9, 1.12);
    let slant = random.between(-0.12, 0.12);
    let (dx, dy) = (random.between(-2.0, 2.0), random.between(-2.0, 2.0));
    let (sin, cos) = (angle.sin() * zoom, angle.cos() * zoom);
    let centre = (SIDE as f32 - 1.0) / 2.0;
    let at = |x: i32, y: i32| {
        let inside = |v: i32| (0..SIDE as i32).contains(&v);
        if inside(x) && inside(y) { f32::from(pixels[y as usize * SIDE + x as usize]) } else { 0.0 }
    };
    let mut out = Vec::with_capacity(PIXELS);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (x, y) = (column as f32 - centre - dx, row as f32 - centre - dy);
            let x = x + slant * y;
            let (x, y) = (cos * x - sin * y + centre, sin * x + cos * y + centre);
            let (left, top) = (x.floor(), y.floor());
            let (fx, fy) = (x - left, y - top);
            let (left, top) = (left as i32, top as i32);
            let upper = at(left, top) * (1.0 - fx) + at(left + 1, top) * fx;
            let lower = at(left, top + 1) * (1.0 - fx) + at(left + 1, top + 1) * fx;
            out.push((upper * (1.0 - fy) + lower * fy).round() as u8);
        }
    }
    out
}

/// Writes an 8-bit greyscale PNG.
pub(crate) fn write_png(path: &Path, side: usize, pixels: &[u8]) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let side = u32::try_from(side)?;
    let mut encoder = png::Encoder::new(file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish().with_context(|| format!("cannot write {}", path.display()))
}

/// A digit three as if drawn with a felt pen, dark on paper, larger than MNIST's: two open bows, each an arc with a
/// wavering radius, and a pen that presses harder downwards.
pub(crate) fn drawn_three(side: usize) -> Vec<u8> {
    let scale = side as f32 / 280.0;
    let mut path = Vec::new();
    for i in 0..=200 {
        let t = i as f32 / 200.0;
        let angle = (-150.0 + 235.0 * t).to_radians();
        let radius = 46.0 + 4.0 * (5.0 * t).sin();
        path.push((136.0 + radius * angle.cos(), 96.0 + 0.92 * radius * angle.sin(), 9.0 + 2.5 * t));
    }
    for i in 0..=220 {
        let t = i as f32 / 220.0;
        let angle = (-95.0 + 240.0 * t).to_radians();
        let radius = 53.0 + 5.0 * (4.0 * t + 1.0).sin();
        path.push((140.0 + radius * angle.cos(), 184.0 + 0.95 * radius * angle.sin(), 11.5 - 3.0 * t));
    }
    let mut pixels = Vec::with_capacity(side * side);
    for y in 0..side {
        for x in 0..side {
            let (px, py) = ((x as f32 + 0.5) / scale, (y as f32 + 0.5) / scale);
            // Distance to the edge of the stroke: inside is full ink, one pixel of edge is blended.
            let inside = path
                .iter()
                .map(|(cx, cy, pen)| pen - ((px - cx).powi(2) + (py - cy).powi(2)).sqrt())
                .fold(f32::MIN, f32::max);
            let ink = (inside * scale + 0.5).clamp(0.0, 1.0);
            let paper = 238.0 + 4.0 * ((x + 2 * y) as f32 * 0.05 / scale).sin();
            pixels.push((paper - ink * (paper - 38.0)).round() as u8);
        }
    }
    pixels
}
