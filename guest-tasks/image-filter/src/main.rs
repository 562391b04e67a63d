//! PNG on stdin, filtered PNG on stdout: `image-filter [blur|edges]`.
//!
//! Integer arithmetic only, so that every machine computes the same pixels.

use std::io::{Cursor, Read, Write};
use std::process::ExitCode;

/// Pixels, `channels` bytes each, row after row.
struct Image {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Image {
    /// The byte at a place, with the border repeated outwards.
    fn at(&self, x: isize, y: isize, channel: usize) -> i32 {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        i32::from(self.pixels[(y * self.width + x) * self.channels + channel])
    }

    fn map(&self, channels: usize, pixel: impl Fn(isize, isize, usize) -> u8) -> Image {
        let mut pixels = Vec::with_capacity(self.width * self.height * channels);
        for y in 0..self.height as isize {
            for x in 0..self.width as isize {
                pixels.extend((0..channels).map(|channel| pixel(x, y, channel)));
            }
        }
        Image {
            width: self.width,
            height: self.height,
            channels,
            pixels,
        }
    }

    /// A 5x5 Gaussian as two passes of the binomial row 1 4 6 4 1.
    fn blur(&self) -> Image {
        const ROW: [i32; 5] = [1, 4, 6, 4, 1];
        let taps = |at: &dyn Fn(isize) -> i32| {
            let sum: i32 = (-2..=2)
                .zip(ROW)
                .map(|(step, weight)| at(step) * weight)
                .sum();
            ((sum + 8) / 16) as u8
        };
        let across = self.map(self.channels, |x, y, c| {
            taps(&|step| self.at(x + step, y, c))
        });
        across.map(self.channels, |x, y, c| {
            taps(&|step| across.at(x, y + step, c))
        })
    }

    /// Sobel's edge strength of the brightness, as greyscale.
    fn edges(&self) -> Image {
        let grey = |x, y| {
            if self.channels < 3 {
                self.at(x, y, 0)
            } else {
                // ITU-R BT.601 weights, in 256ths.
                (77 * self.at(x, y, 0) + 150 * self.at(x, y, 1) + 29 * self.at(x, y, 2)) / 256
            }
        };
        self.map(1, |x, y, _| {
            let column = |x| grey(x, y - 1) + 2 * grey(x, y) + grey(x, y + 1);
            let row = |y| grey(x - 1, y) + 2 * grey(x, y) + grey(x + 1, y);
            let strength = (column(x + 1) - column(x - 1)).abs() + (row(y + 1) - row(y - 1)).abs();
            strength.min(255) as u8
        })
    }
}

fn decode(bytes: Vec<u8>) -> Result<Image, png::DecodingError> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // Palettes and 16-bit samples become plain 8-bit channels.
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let size = reader
        .output_buffer_size()
        .ok_or(png::DecodingError::LimitsExceeded)?;
    let mut pixels = vec![0; size];
    let info = reader.next_frame(&mut pixels)?;
    pixels.truncate(info.buffer_size());
    Ok(Image {
        width: info.width as usize,
        height: info.height as usize,
        channels: info.color_type.samples(),
        pixels,
    })
}

fn encode(image: &Image) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(match image.channels {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    encoder.write_header()?.write_image_data(&image.pixels)?;
    Ok(bytes)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let filter = match std::env::args().nth(1).as_deref() {
        None | Some("blur") => Image::blur,
        Some("edges") => Image::edges,
        Some(other) => return Err(format!("no filter '{other}': blur or edges").into()),
    };
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let filtered = filter(&decode(bytes)?);
    std::io::stdout().write_all(&encode(&filtered)?)?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-filter: {error}");
            ExitCode::FAILURE
        }
    }
}
