# directmap_add_test(NAME sources... [LIBS target...] [TIMEOUT seconds] [LABELS label...])
#   A GoogleTest program, rapidcheck included; each of its cases becomes one CTest test called `NAME.Suite.Case`.
#   DIRECTMAP_SOURCE_DIR is defined as the root of the source tree, for test data.
#
# directmap_add_fuzzer(NAME sources... RUNS n|OPERATIONS n [LIBS target...] [ARGS libfuzzer-option...] [TIMEOUT seconds])
#   A libFuzzer target and one CTest test that executes it n times from a fixed seed; or until it has played n operations, if it
#   understands --operations=n. Only clang has libFuzzer: with another compiler this does nothing. Files in fuzz/corpus/NAME, if there
#   are any, are the starting corpus.
#
# directmap_add_check_report(TARGET [argument...])
#   Makes ./check run the program after the tests and show its output (the list of seeded faults and who catches each comes this way).
#   A report that fails makes the check fail. The commands are listed, one a line, in check-reports.sh in the build folder.

include(GoogleTest)

if(DIRECTMAP_BUILD_TESTS)
  find_package(GTest REQUIRED)
  find_package(rapidcheck REQUIRED)

  add_library(directmap_test_base INTERFACE)
  target_link_libraries(directmap_test_base INTERFACE directmap_warnings rapidcheck_gtest GTest::gmock GTest::gtest)
  target_compile_definitions(directmap_test_base INTERFACE DIRECTMAP_SOURCE_DIR="${PROJECT_SOURCE_DIR}")

  # Parsing GoogleTest and rapidcheck costs more than most tests do, so they are parsed once and shared by all test programs.
  add_library(directmap_test_main STATIC "${CMAKE_CURRENT_LIST_DIR}/test_main.cpp")
  target_link_libraries(directmap_test_main PUBLIC directmap_test_base)
  target_precompile_headers(directmap_test_main PRIVATE <gmock/gmock.h> <gtest/gtest.h> <rapidcheck.h> <rapidcheck/gtest.h>)
endif()

function(directmap_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "LIBS;LABELS")
  if(NOT DIRECTMAP_BUILD_TESTS)
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} directmap_test_main)
  target_precompile_headers(${name} REUSE_FROM directmap_test_main)
  gtest_discover_tests(
    ${name}
    TEST_PREFIX "${name}."
    DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${name};${arg_LABELS}")
endfunction()

function(directmap_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "RUNS;OPERATIONS;TIMEOUT" "LIBS;ARGS")
  if(arg_RUNS)
    set(amount ${arg_RUNS}_runs)
    list(APPEND arg_ARGS -runs=${arg_RUNS})
  elseif(arg_OPERATIONS)
    set(amount ${arg_OPERATIONS}_operations)
    list(APPEND arg_ARGS --operations=${arg_OPERATIONS})
  else()
    message(FATAL_ERROR "directmap_add_fuzzer(${name}): RUNS or OPERATIONS is missing")
  endif()
  if(NOT DIRECTMAP_BUILD_TESTS OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} directmap_warnings)
  # Only the target and the headers it includes are measured for coverage: the engine is what is searched, not its judge.
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  # The corpus lives in memory, so that every run is the same run; inputs that fail are written to fuzz-artifacts/.
  set(artifacts "${PROJECT_BINARY_DIR}/fuzz-artifacts")
  file(MAKE_DIRECTORY "${artifacts}")
  file(GLOB seeds CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/fuzz/corpus/${name}/*")
  if(seeds)
    list(JOIN seeds "," seeds)
    list(APPEND arg_ARGS "-seed_inputs=${seeds}")
  endif()
  set(test ${name}.${amount}_find_nothing)
  add_test(NAME ${test} COMMAND ${name} -seed=1 -artifact_prefix=${artifacts}/${name}- ${arg_ARGS})
  # Cost: the longest tests start first, so that the last minute of a check isn't spent waiting for one of them.
  set_tests_properties(${test} PROPERTIES TIMEOUT ${arg_TIMEOUT} COST 100 LABELS "fuzz;${name}")
endfunction()

function(directmap_add_check_report target)
  list(TRANSFORM ARGN REPLACE "(.+)" "'\\1'" OUTPUT_VARIABLE arguments)
  list(JOIN arguments " " arguments)
  set_property(GLOBAL APPEND_STRING PROPERTY DIRECTMAP_CHECK_REPORTS "'$<TARGET_FILE:${target}>' ${arguments}\n")
endfunction()
