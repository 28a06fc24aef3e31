# Prints each line with more than 120 columns, and fails if there is one. A tab counts 4. It does not check tables and
# code blocks of Markdown, and the targets of links. Run it with LC_ALL=C: then every awk counts bytes, and each
# character has exactly one byte that is not a continuation.
FNR == 1 {markdown = FILENAME ~ /\.md$/; code = 0}
markdown && /^ *```/ {code = !code}
markdown && (code || /^ *\|/) {next}
{
  line = $0
  gsub(/\t/, "    ", line)
  if (markdown) gsub(/\]\([^)]*\)/, "]", line)
  gsub(/https?:\/\/[^ ]*/, "", line)
  gsub(/[\200-\277]/, "", line)
  if (length(line) > 120) {
    print FILENAME ":" FNR ": " length(line) " columns"
    failed = 1
  }
}
END {exit failed}
