# Turns `nm --numeric-sort --demangle` of a linked image into an assembly file with its table of functions
# (pure/symbols.hpp). Template arguments and parameters are left out of names: a cause of death must fit a line.

function shorten(name,    i, c, depth, short) {
    sub(/ \[clone .*/, "", name)
    for (i = 1; i <= length(name); i++) {
        c = substr(name, i, 1)
        if (c == "<") depth++
        else if (c == ">" && depth > 0) depth--
        else if (c == "(" && depth == 0 && substr(name, i, 11) == "(anonymous ") { short = short "{anonymous}"; i += 20 }
        else if (c == "(" && depth == 0 && short != "") break
        else if (depth == 0) short = short c
    }
    sub(/^.* /, "", short) # the return type that nm shows of a template
    gsub(/directmap::kernel::/, "", short)
    return short
}

BEGIN { count = 0; position = 0 }

# The low half is enough: an image is smaller than 4 GiB.
$3 == "image_start" { start = substr($1, 9); next }

$2 ~ /^[tTwW]$/ && $3 !~ /^[$.]/ {
    if ($1 == last) next
    last = $1
    rest = $0
    sub(/^[0-9a-f]+ . /, "", rest)
    name = shorten(rest)
    if (name == "") next
    addresses[count] = $1
    names[count] = name
    count++
}

END {
    print "    .section .symbols, \"a\""
    print "    .balign 8"
    print "    .global symbol_table"
    print "symbol_table:"
    print "    .long " count
    for (i = 0; i < count; i++) {
        print "    .long 0x" substr(addresses[i], 9) " - 0x" start ", " position
        position += length(names[i]) + 1
    }
    for (i = 0; i < count; i++) print "    .asciz \"" names[i] "\""
}
