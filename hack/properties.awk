# Prints the names of the tests that check a property with rapid.
/^func Test/ { split($0, part, /[ (]/); name = part[2] }
/rapid\.Check\(/ { print name }
