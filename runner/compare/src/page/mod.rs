//! A comparison as one HTML page, to send to a colleague.
//!
//! The page is whole by itself: no script, no other file, no network, and its own
//! policy forbids them. What a reader decides by comes first, in words that are made
//! of the numbers; what a sceptic asks for comes after, down to the command that
//! measures each number again. Charts are drawn at the width of a phone and set in
//! columns where there is room, so that their text has one size everywhere.
//!
//! Invariant: nothing of the results reaches the page unescaped: markup is only made
//! by `maud`'s macro, and the one that looks at a foreign string does it through
//! [`text::Text`].

mod answer;
mod axis;
mod bars;
mod chart;
mod document;
mod faults;
mod lines;
mod sections;
mod setting;
mod strips;
mod tables;
mod text;
mod words;
