# How this project compiles its own code. Link `directmap_warnings` privately from every target of ours.

add_library(directmap_warnings INTERFACE)
target_compile_options(directmap_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # libstdc++ 12's std::stable_sort uses a function that it calls deprecated itself; clang reports that at our call. g++ still
  # watches over our own use of deprecated things.
  target_compile_options(directmap_warnings INTERFACE -Wno-deprecated-declarations)
endif()
if(DIRECTMAP_WERROR)
  target_compile_options(directmap_warnings INTERFACE -Werror)
endif()

# What is built names source files as they are called below the source folder (the machine's record of events shows some): the
# folder itself is nobody else's business, and where the source lies changes no byte of a release. Builds with debug information
# keep whole names in it, for debuggers and sanitizers.
add_compile_options("$<IF:$<CONFIG:Release>,-ffile-prefix-map,-fmacro-prefix-map>=${PROJECT_SOURCE_DIR}/=")

# A sanitizer must see every translation unit of a program, so it is a property of the build and not of a target.
if(DIRECTMAP_SANITIZE)
  add_compile_options(-fsanitize=${DIRECTMAP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${DIRECTMAP_SANITIZE})
endif()

find_program(DIRECTMAP_CCACHE ccache)
mark_as_advanced(DIRECTMAP_CCACHE)
if(DIRECTMAP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${DIRECTMAP_CCACHE}")
endif()
