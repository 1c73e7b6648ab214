//! How tokens, heads and channels lie in a slice.

use crate::error::{Error, Result};

/// Strides of a `[token, head, dim]` tensor, in elements. The channels of one head of one token are
/// contiguous; everything else is free, so `[token, head, dim]`, `[head, token, dim]` and slices of
/// wider rows (packed QKV) are all one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of heads.
    pub heads: usize,
    /// Channels per head.
    pub dim: usize,
    /// Elements from a token to the next.
    pub token_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
}

impl Layout {
    /// `[token, head, dim]`, contiguous.
    pub fn token_major(heads: usize, dim: usize) -> Self {
        Self { heads, dim, token_stride: heads * dim, head_stride: dim }
    }

    /// `[head, token, dim]`, contiguous, for a buffer of `tokens` tokens.
    pub fn head_major(heads: usize, dim: usize, tokens: usize) -> Self {
        Self { heads, dim, token_stride: dim, head_stride: tokens * dim }
    }

    /// The offset of the first channel.
    pub fn offset(&self, token: usize, head: usize) -> usize {
        token * self.token_stride + head * self.head_stride
    }

    /// The shortest slice that holds `tokens` tokens, or `None` on overflow.
    pub fn required_len(&self, tokens: usize) -> Option<usize> {
        if tokens == 0 || self.heads == 0 {
            return Some(0);
        }
        let last_token = (tokens - 1).checked_mul(self.token_stride)?;
        let last_head = (self.heads - 1).checked_mul(self.head_stride)?;
        last_token.checked_add(last_head)?.checked_add(self.dim)
    }

    pub(crate) fn check(&self, what: &'static str, tokens: usize, len: usize) -> Result<()> {
        let needed = self.required_len(tokens).ok_or(Error::Overflow { what })?;
        if len < needed {
            return Err(Error::LengthMismatch { what, expected: needed, actual: len });
        }
        Ok(())
    }
}

/// A borrowed `[token, head, dim]` tensor.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Where they lie.
    pub layout: Layout,
}

impl<'a, T> View<'a, T> {
    /// A view of `data` laid out as `layout`.
    pub fn new(data: &'a [T], layout: Layout) -> Self {
        Self { data, layout }
    }

    /// A contiguous `[token, head, dim]` tensor.
    pub fn token_major(data: &'a [T], heads: usize, dim: usize) -> Self {
        Self::new(data, Layout::token_major(heads, dim))
    }

    /// The channels of one head of one token.
    ///
    /// # Panics
    /// If they lie outside the slice.
    pub fn row(&self, token: usize, head: usize) -> &'a [T] {
        let start = self.layout.offset(token, head);
        &self.data[start..start + self.layout.dim]
    }
}
