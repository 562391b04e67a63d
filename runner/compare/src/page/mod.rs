//! A comparison as one HTML page, to send to a colleague.
//!
//! The page is self-contained: no script, no other file, no network, and its own policy
//! forbids them. First comes the basis for a decision, in words derived from the numbers;
//! then the details, down to the command that measures each number again. Charts are drawn
//! at the width of a phone and set in columns if there is room, so that their text has one
//! size everywhere.
//!
//! Invariant: nothing of the results reaches the page unescaped: markup is only made by
//! `maud`'s macro, and foreign strings are shown through [`text::Text`].

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
