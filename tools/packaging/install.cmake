# Install rules and the two package descriptions; included by the top CMakeLists.txt.
include(CMakePackageConfigHelpers)
set_target_properties(kvrt PROPERTIES EXPORT_NAME kvrt)
install(TARGETS kvrt kvrt_static EXPORT kvrtTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT dev
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev)
install(FILES runtime/kvrt.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
install(EXPORT kvrtTargets NAMESPACE kvrt:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt COMPONENT dev)
configure_package_config_file(tools/packaging/kvrtConfig.cmake.in ${PROJECT_BINARY_DIR}/kvrtConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH kvrt_pc_to_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix) # relocatable: no prefix is baked in
configure_file(tools/packaging/kvrt.pc.in ${PROJECT_BINARY_DIR}/kvrt.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvrtConfig.cmake ${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt COMPONENT dev)
install(FILES ${PROJECT_BINARY_DIR}/kvrt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
if(TARGET kvrt_command)
    install(TARGETS kvrt_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
endif()

# The manual page and the completions come out of the installed command, so they match it; for another processor by an emulator.
if(TARGET kvrt_command AND CMAKE_CROSSCOMPILING AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
    message(STATUS "kvrt: without CMAKE_CROSSCOMPILING_EMULATOR there is no manual page and there are no completions")
elseif(TARGET kvrt_command)
    set(page ${PROJECT_BINARY_DIR}/kvrt.1)
    set(scripts ${PROJECT_BINARY_DIR}/completions)
    set(kvrt_says sh -c "to=$1 && shift && exec \"$@\" >\"$to\"" sh)
    set(the_command ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:kvrt_command>)
    # Paths reach the shell as arguments, never as text of its command: a checkout may lie under any name.
    add_custom_command(TARGET kvrt_command POST_BUILD
        COMMAND ${CMAKE_COMMAND} -E make_directory ${scripts}
        COMMAND ${kvrt_says} ${page} ${the_command} --man
        COMMAND ${kvrt_says} ${scripts}/kvrt ${the_command} --completions bash
        COMMAND ${kvrt_says} ${scripts}/_kvrt ${the_command} --completions zsh
        COMMAND ${kvrt_says} ${scripts}/kvrt.fish ${the_command} --completions fish
        VERBATIM)
    install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT command)
    install(FILES ${scripts}/kvrt DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT command)
    install(FILES ${scripts}/_kvrt DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions COMPONENT command)
    install(FILES ${scripts}/kvrt.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT command)
endif()

# Debian packages, by `cpack -G DEB` in the build folder: the library, what a program is built with, and the command, which needs neither.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME kvrt)
set(CPACK_PACKAGE_CONTACT "kvrt")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_COMPONENTS_ALL library dev)
if(TARGET kvrt_command)
    list(APPEND CPACK_COMPONENTS_ALL command)
endif()
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libkvrt${PROJECT_VERSION_MAJOR})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_DEV_PACKAGE_NAME libkvrt-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS "libkvrt${PROJECT_VERSION_MAJOR} (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME kvrt)
set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION utils)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "Embeddable language model runtime: the shared library")
set(CPACK_COMPONENT_DEV_DESCRIPTION "Embeddable language model runtime: header, static library, pkg-config and CMake files")
set(CPACK_COMPONENT_COMMAND_DESCRIPTION "Runs language models: chat, run, plan, bench, eval, quantize")
find_program(kvrt_shlibdeps dpkg-shlibdeps)
if(kvrt_shlibdeps) # else the packages do not say which C library they need
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
include(CPack)
