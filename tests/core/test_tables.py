import csv

from inversion.core.tables import aligned, csv_text


def test_columns_are_aligned_the_first_to_the_left():
    assert aligned([["", "ms"], ["conv2", "7.5"], ["fc", "12.25"]]) == "          ms\nconv2    7.5\nfc     12.25"


def test_a_csv_has_every_rows_keys_in_order_of_appearance():
    text = csv_text([{"layer": "conv5", "mse": 0.5}, {"layer": 'a "b", c', "note": "x"}])
    assert text.splitlines()[0] == "layer,mse,note"
    assert list(csv.DictReader(text.splitlines())) == [
        {"layer": "conv5", "mse": "0.5", "note": ""},
        {"layer": 'a "b", c', "mse": "", "note": "x"},
    ]
