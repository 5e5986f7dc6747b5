//! What each kind of GGUF vocabulary does with roles, defaults and corner cases, on vocabularies small enough to
//! follow by hand.

use rlx_text::{GgufVocab, TextStream, Tokenizer};

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| (*t).to_owned()).collect()
}

fn tokenizer(vocab: &GgufVocab) -> Tokenizer {
    Tokenizer::from_gguf(vocab).unwrap_or_else(|e| panic!("{e}"))
}

fn encode(t: &Tokenizer, text: &str) -> Vec<String> {
    t.encode(text, true).expect("encodes").into_iter().map(|id| t.token(id).expect("a token").to_owned()).collect()
}

fn spm() -> GgufVocab {
    let bytes: Vec<String> = (0..=255).map(|b| format!("<0x{b:02X}>")).collect();
    let mut tokens = texts(&["<unk>", "<s>", "</s>"]);
    tokens.extend(bytes);
    tokens.extend(texts(&["▁", "a", "b", "▁a", "ab", "▁▁", "<tool>"]));
    let n = tokens.len();
    let mut types = vec![1; n];
    (types[0], types[1], types[2], types[n - 1]) = (2, 3, 3, 4);
    types[3..259].fill(6);
    let mut scores = vec![0.0; n];
    scores[259..266].copy_from_slice(&[-9.0, -8.0, -7.0, -3.0, -2.0, -4.0, 0.0]);
    GgufVocab { model: "llama".into(), tokens, scores: Some(scores), token_types: Some(types), ..GgufVocab::default() }
}

#[test]
fn the_better_score_merges_first_and_the_rest_becomes_bytes() {
    let t = tokenizer(&spm());
    // "ab" scores better than "▁a", so the space is left alone.
    assert_eq!(encode(&t, "ab"), ["<s>", "▁", "ab"]);
    assert_eq!(encode(&t, "a b"), ["<s>", "▁a", "▁", "b"]);
    assert_eq!(encode(&t, "é"), ["<s>", "▁", "<0xC3>", "<0xA9>"]);
    assert_eq!((t.bos(), t.eos(), t.unk()), (Some(1), Some(2), Some(0)));
}

#[test]
fn a_space_is_added_at_the_beginning_and_after_special_tokens_unless_the_file_says_no() {
    let t = tokenizer(&spm());
    assert_eq!(encode(&t, "a</s>a<tool>a"), ["<s>", "▁a", "</s>", "▁a", "<tool>", "▁a"]);
    let ordinary = t.encode_ordinary("</s><tool>").expect("encodes");
    assert_eq!(ordinary.last(), t.id("<tool>").as_ref(), "user-defined tokens are text");
    assert!(!ordinary.contains(&2), "control tokens are not");
    let bare = tokenizer(&GgufVocab { add_space_prefix: Some(false), add_bos: Some(false), add_eos: Some(true), ..spm() });
    assert_eq!(encode(&bare, "a  a"), ["a", "▁", "▁a", "</s>"]);
    assert_eq!(bare.decode(&bare.encode(" a", false).expect("encodes"), false).expect("decodes"), " a");
    let single = tokenizer(&GgufVocab { remove_extra_whitespaces: Some(true), ..spm() });
    assert_eq!(encode(&single, "  a   a "), ["<s>", "▁a", "▁a"]);
}

#[test]
fn half_a_character_streams_as_one_replacement_for_each_byte() {
    let t = tokenizer(&spm());
    let byte = |b: u8| t.id(&format!("<0x{b:02X}>")).expect("a token");
    let ids = [byte(0xF0), byte(0x9F), t.id("a").expect("a token"), byte(0xC3), byte(0xA9), byte(0xFF)];
    let mut stream = TextStream::new(&t, false);
    let mut out = String::new();
    for id in ids {
        stream.push_into(id, &mut out).expect("decodes");
    }
    out += &stream.finish().expect("decodes");
    assert_eq!(out, "\u{FFFD}\u{FFFD}a\u{FFFD}\u{FFFD}\u{FFFD}", "a run that is not UTF-8 as a whole is none in part");
    assert_eq!(t.decode(&ids, false).expect("decodes"), out);
}

/// A list may have gaps, but what is put around texts or stands for the unknown must be a token.
#[test]
fn a_role_without_text_is_no_role() {
    let gap = |at: usize, f: &dyn Fn(&mut GgufVocab)| {
        let mut vocab = spm();
        vocab.tokens[at].clear();
        f(&mut vocab);
        Tokenizer::from_gguf(&vocab)
    };
    // By default token 1 begins a text; the file does not say so.
    let message = gap(1, &|_| {}).expect_err("refused").to_string();
    assert!(message.contains("add_bos_token") && message.contains("which token"), "{message}");
    let without = gap(1, &|v| v.add_bos = Some(false)).expect("nothing is added");
    assert_eq!((without.bos(), encode(&without, "a")), (None, texts(&["▁a"])));
    let role = |field: &str, v: &mut GgufVocab| match field {
        "bos_token_id" => v.bos_id = Some(260),
        "eos_token_id" => v.eos_id = Some(260),
        "unknown_token_id" => v.unk_id = Some(260),
        _ => v.sep_id = Some(260),
    };
    for field in ["bos_token_id", "eos_token_id", "unknown_token_id", "seperator_token_id"] {
        let message = gap(260, &|v| role(field, v)).expect_err(field).to_string();
        assert!(message.contains(field) && message.contains("token 260"), "{message}");
        let mut twin = spm();
        role(field, &mut twin);
        tokenizer(&twin);
    }
}

#[test]
fn what_has_neither_token_nor_bytes_is_unknown_once() {
    let vocab = GgufVocab {
        tokens: texts(&["<unk>", "▁", "a"]),
        scores: Some(vec![0.0, -1.0, -2.0]),
        token_types: Some(vec![2, 1, 1]),
        add_bos: Some(false),
        ..GgufVocab { model: "llama".into(), ..GgufVocab::default() }
    };
    assert_eq!(encode(&tokenizer(&vocab), "axyza"), ["▁", "a", "<unk>", "a"]);
    let vocab = GgufVocab { model: "t5".into(), add_space_prefix: Some(true), unk_id: Some(0), add_eos: Some(false), ..vocab };
    assert_eq!(encode(&tokenizer(&vocab), "axyz a"), ["▁", "a", "<unk>", "▁", "a"]);
}

#[test]
fn a_unigram_takes_the_best_sum_of_scores() {
    let vocab = GgufVocab {
        model: "t5".into(),
        tokens: texts(&["<pad>", "</s>", "<unk>", "▁a", "b", "c", "bc", "▁ab", "<extra_id_0>"]),
        scores: Some(vec![0.0, 0.0, 0.0, -3.0, -2.0, -2.0, -3.5, -3.0, 0.0]),
        token_types: Some(vec![3, 3, 2, 1, 1, 1, 1, 1, 4]),
        add_space_prefix: Some(true),
        remove_extra_whitespaces: Some(true),
        ..GgufVocab::default()
    };
    let t = tokenizer(&vocab);
    // ▁ab c: -5; ▁a bc: -6.5; ▁a b c: -7.
    assert_eq!(encode(&t, "  abc   a "), ["▁ab", "c", "▁a", "</s>"]);
    let ids = t.encode("a<extra_id_0>a", true).expect("encodes");
    assert_eq!(t.decode(&ids, true).expect("decodes"), "a a", "sentinels are control tokens");
}

#[test]
fn word_pieces_are_the_longest_from_the_left() {
    let vocab = GgufVocab {
        model: "bert".into(),
        tokens: texts(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "▁una", "aff", "able", "ffable", "▁,", "▁東", "▁E"]),
        token_types: Some(vec![3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        bos_id: Some(2),
        sep_id: Some(3),
        unk_id: Some(1),
        pad_id: Some(0),
        ..GgufVocab::default()
    };
    let t = tokenizer(&vocab);
    assert_eq!(encode(&t, "Unaffable,東 ÙN é"), ["[CLS]", "▁una", "ffable", "▁,", "▁東", "▁un", "[UNK]", "[SEP]"]);
    assert_eq!(t.decode(&t.encode("unaffable , un", true).expect("encodes"), true).expect("decodes"), "unaffable, un");
    let cased = tokenizer(&GgufVocab { lowercase: Some(false), ..vocab });
    assert_eq!(encode(&cased, "E é un"), ["[CLS]", "▁E", "[UNK]", "▁un", "[SEP]"]);
    let pair = cased.encode_pair("un", "E").expect("encodes");
    assert_eq!((pair.ids, pair.type_ids), (vec![2, 4, 3, 11, 3], vec![0, 0, 0, 1, 1]));
    let long = "un".repeat(51);
    assert_eq!(encode(&cased, &long), ["[CLS]", "[UNK]", "[SEP]"]);
}

#[test]
fn rwkv_takes_the_longest_token_and_reads_escapes() {
    let mut tokens = texts(&["<s>"]);
    tokens.extend((0..=255).map(|b| format!(r"\x{b:02x}")));
    tokens.extend(texts(&["ab", "abcd", r"\n\n", r"\xe6\x9d"]));
    let mut types = vec![1; tokens.len()];
    types[0] = 3;
    let t = tokenizer(&GgufVocab { model: "rwkv".into(), tokens, token_types: Some(types), ..GgufVocab::default() });
    assert_eq!(encode(&t, "abcabcd\n\n東"), ["ab", r"\x63", "abcd", r"\n\n", r"\xe6\x9d", r"\xb1"]);
    let text = "any 😀 text\t\u{0}";
    assert_eq!(t.decode(&t.encode(text, true).expect("encodes"), false).expect("decodes"), text);
}

#[test]
fn roles_come_from_the_file_and_turn_ends_from_their_names() {
    let vocab = GgufVocab {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: texts(&["a", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]),
        token_types: Some(vec![1, 3, 1, 3, 3, 3, 3]),
        eos_id: Some(1),
        eom_id: Some(3),
        fim_ids: [Some(4), Some(5), Some(6)],
        ..GgufVocab::default()
    };
    let t = tokenizer(&vocab);
    assert_eq!((t.eos(), t.eot(), t.eom(), t.fill_in_the_middle()), (Some(1), Some(2), Some(3), Some([4, 5, 6])));
    assert!(t.is_control(2), "also where the file takes it for an ordinary token");
    assert_eq!(t.encode("a<|eot_id|>", true).expect("encodes"), [0, 2]);
    let named = tokenizer(&GgufVocab { eot_id: Some(1), eos_id: Some(2), ..vocab });
    assert_eq!((named.eos(), named.eot()), (Some(2), Some(1)));
}
